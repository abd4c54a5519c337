"""The published wire from the edge's transport to a server, all in one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from benchmarks.netlink.probe import probe
from benchmarks.wire.far_side import start_far_side
from benchmarks.wire.padded import PUBLISHED_TOKEN_BYTES, PaddedConnector, is_padding
from edge_agent.errors import CloudUnreachable
from pipesd_vllm.wire import SUBPROTOCOL, Cancel, Commit, Draft, Upstream, decode_upstream, encode


@asynccontextmanager
async def standing() -> AsyncIterator[tuple[str, list[Upstream], list[str | None]]]:
    """The far side's address, what its server got, and the keys it was shown."""
    got: list[Upstream] = []
    keys: list[str | None] = []

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        keys.append(connection.request.headers.get("Authorization"))
        async for message in connection:
            assert isinstance(message, bytes)
            got.append(decode_upstream(message))
            await connection.send(encode(Commit(1, 5, [7])))

    async with (
        serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server,
        await start_far_side("127.0.0.1", 0, next(iter(server.sockets)).getsockname()[1]) as far,
    ):
        yield f"127.0.0.1:{next(iter(far.sockets)).getsockname()[1]}", got, keys


async def test_drafts_arrive_without_their_weight() -> None:
    """The bytes are sent and counted, the server sees the frames alone, and its answers come back."""
    async with standing() as (address, got, keys):
        transport = await PaddedConnector(address, "secret", 10.0).connect()
        draft = Draft(1, 1, 5, 0, [3, 4])
        num_bytes = await transport.send(draft)
        assert num_bytes == await transport.send(draft)
        assert num_bytes > 2 * PUBLISHED_TOKEN_BYTES
        assert await transport.send(Cancel(1)) < 100
        for _ in range(3):
            message, _ = await transport.receive()
            assert message == Commit(1, 5, [7])
        assert got == [draft, draft, Cancel(1)]
        assert keys == ["Bearer secret"]
        assert await transport.ping(15) > 0.0
        await transport.close()


async def test_nobody_there() -> None:
    """A far side that does not answer is an unreachable cloud."""
    with pytest.raises(CloudUnreachable):
        await PaddedConnector("127.0.0.1:1", None, 20.0).connect()


async def test_probe() -> None:
    """The far side serves the measurement of the link as well."""
    async with standing() as (address, _, _):
        probed = await probe(address)
    assert probed.rtt_ms > 0.0
    assert probed.up_mbit > 1.0
    assert probed.down_mbit > 1.0


def test_padding_is_told_from_frames() -> None:
    """A draft token weighs 9 bytes for each of 32,256 entries; no frame of ours is taken for padding."""
    assert PUBLISHED_TOKEN_BYTES == 290_304
    assert is_padding(b"\xc1" * 3)
    assert not any(is_padding(encode(message)) for message in (Cancel(1), Draft(1, 1, 1, 0, [5])))
    assert not is_padding("text")
