"""The WebSocket transport against real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from edge_agent.errors import (
    CloudError,
    CloudMisbehaved,
    CloudOverloaded,
    CloudRefused,
    CloudUnreachable,
)
from edge_agent.verifier import WebSocketConnector
from edge_agent.verifier.websocket import WebSocketTransport
from pipesd_vllm.wire import SUBPROTOCOL, Ask, Cancel, CloseReason, Commit, Part, decode_upstream, encode


@asynccontextmanager
async def transport_to(
    answer: bytes | str | None, code: int, reason: str
) -> AsyncIterator[WebSocketTransport]:
    """A transport to a server that waits for a frame, sends `answer` and closes."""

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        if answer is not None:
            await connection.send(answer)
        await connection.close(code, reason)

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
        port = server.sockets[0].getsockname()[1]
        transport = await WebSocketConnector(f"http://127.0.0.1:{port}", None, 10.0).connect()
        try:
            yield transport
        finally:
            await transport.close()


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (1008, CloseReason.BAD_VERSION, CloudRefused),
        (1007, CloseReason.BAD_FRAME, CloudRefused),
        (1008, CloseReason.BAD_TOKEN, CloudRefused),
        (1009, CloseReason.TOO_LARGE, CloudRefused),
        (1000, CloseReason.IDLE, CloudUnreachable),
        (1008, CloseReason.SLOW_READER, CloudUnreachable),
        (1011, CloseReason.ENGINE_DEAD, CloudUnreachable),
        (1012, "", CloudUnreachable),
        (1001, "going away", CloudUnreachable),
    ],
)
async def test_a_closed_connection(code: int, reason: str, error: type[CloudError]) -> None:
    """Only what the edge itself did wrong is a refusal; after anything else the turn can be resumed."""
    async with transport_to(None, code, f"{reason}: because" if reason else "") as transport:
        await transport.send(Cancel(1))
        with pytest.raises(error, match="because" if isinstance(reason, CloseReason) else "lost") as caught:
            await transport.receive()
        if isinstance(caught.value, CloudRefused):
            assert caught.value.code == reason
        assert not transport.is_open
        with pytest.raises(error):
            await transport.send(Cancel(1))


@pytest.mark.parametrize("answer", ["text", b"\xff\xff"])
async def test_frames_that_are_none(answer: bytes | str) -> None:
    """A server that sends something else is not believed."""
    async with transport_to(answer, 1000, "") as transport:
        await transport.send(Cancel(1))
        with pytest.raises(CloudMisbehaved):
            await transport.receive()


async def test_sizes_are_those_on_the_wire() -> None:
    """A frame counts with its header, and with its mask on the way up (RFC 6455, section 5.2)."""
    commit = Commit(1, 5, [7] * 200)
    async with transport_to(encode(commit), 1000, "") as transport:
        assert await transport.send(Cancel(1)) == 2 + 4 + len(encode(Cancel(1)))
        assert await transport.receive() == (commit, 4 + len(encode(commit)))


async def test_unread_frames_do_not_keep_pings_from_being_answered() -> None:
    """A connection kept with the rest of a cancelled turn stays alive, and that rest can still be read."""
    answered = asyncio.Event()
    commit = Commit(1, 5, [1 << 20] * 4000)

    async def handle(connection: ServerConnection) -> None:
        for _ in range(60):
            await connection.send(encode(commit))
        await (await connection.ping())
        answered.set()
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
        port = server.sockets[0].getsockname()[1]
        transport = await WebSocketConnector(f"http://127.0.0.1:{port}", None, 10.0).connect()
        try:
            await asyncio.wait_for(answered.wait(), 5)
            assert [(await transport.receive())[0] for _ in range(60)] == [commit] * 60
        finally:
            await transport.close()


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (401, {}, CloudRefused("invalid_api_key", "")),
        (404, {}, CloudRefused("no_pipesd", "")),
        (429, {"Retry-After": "7"}, CloudOverloaded("", 7.0)),
        (429, {}, CloudOverloaded("")),
        (429, {"Retry-After": "later"}, CloudOverloaded("")),
        (503, {"Retry-After": "3"}, CloudUnreachable("", 3.0)),
        (502, {}, CloudUnreachable("")),
    ],
    ids=lambda each: str(each) if isinstance(each, int) else None,
)
async def test_a_refused_upgrade(status: int, headers: dict[str, str], error: CloudError) -> None:
    """What the server, or a proxy before it, answers instead, and when it may be tried again."""

    def refuse(connection: ServerConnection, request: Request) -> Response:
        refusal = connection.respond(status, "no")
        for name, value in headers.items():
            refusal.headers[name] = value
        return refusal

    async def handle(connection: ServerConnection) -> None:
        raise AssertionError("never upgraded")

    async with serve(handle, "127.0.0.1", 0, process_request=refuse) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(type(error)) as caught:
            await WebSocketConnector(f"http://127.0.0.1:{port}", None, 10.0).connect()
    for told in ("code", "retry_after_s"):
        assert getattr(caught.value, told, None) == getattr(error, told, None)


LARGE = Ask(1, "/v1/completions", b"x" * 40_000_000, "r")


async def test_a_message_larger_than_a_frame_goes_in_parts() -> None:
    """The server can put it together again."""
    received: list[bytes] = []
    done = asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        async for data in connection:
            part = decode_upstream(data if isinstance(data, bytes) else b"")
            assert isinstance(part, Part)
            received.append(part.data)
            if part.last:
                break
        done.set()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
        port = server.sockets[0].getsockname()[1]
        transport = await WebSocketConnector(f"http://127.0.0.1:{port}", None, 10.0).connect()
        assert await transport.send(LARGE) > len(LARGE.body)
        await asyncio.wait_for(done.wait(), 20)
        await transport.close()
    assert decode_upstream(b"".join(received), 1 << 26) == LARGE


async def test_a_connection_left_in_the_middle_of_a_message_is_of_no_use() -> None:
    """Whoever gives up sending parts has nothing else to send there: the server would take it for one."""

    done = asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        await done.wait()  # reads nothing

    options: dict[str, Any] = {
        "subprotocols": [Subprotocol(SUBPROTOCOL)],
        "max_queue": 1,
        "close_timeout": 0.1,
    }
    async with serve(handle, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        transport = await WebSocketConnector(f"http://127.0.0.1:{port}", None, 10.0).connect()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(transport.send(LARGE), 0.2)
        assert not transport.is_open
        with pytest.raises(CloudUnreachable, match="middle of a message"):
            await transport.send(Cancel(1))
        done.set()
        await transport.close()
