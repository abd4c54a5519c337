"""A connection of the edge agent on which draft tokens weigh what they weigh in the literature."""

from __future__ import annotations

import asyncio
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from benchmarks.wire.padding import padding_frame, probe_tokens
from edge_agent.errors import CloudUnreachable
from edge_agent.websocket_transport import WebSocketTransport
from pipesd_vllm.protocol import MAX_FRAME_BYTES, SESSION_PATH, SUBPROTOCOL, Downstream, Draft, Upstream

__all__ = ["PaddedConnector", "PaddedTransport"]

# The paper uploads beside drafting: a send that waited for the line would hold the session loop up.
_WRITE_LIMIT_BYTES: Final = 1 << 28


class PaddedTransport:
    """A `Transport` to a far side (`benchmarks/wire/far_side.py`), which takes the padding off."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._inner = WebSocketTransport(connection)

    @property
    def is_open(self) -> bool:
        return self._inner.is_open

    async def send(self, message: Upstream) -> int:
        num_padding = 0
        if isinstance(message, Draft):
            num_padding = await self._pad(len(message.tokens))
        return num_padding + await self._inner.send(message)

    async def receive(self) -> tuple[Downstream, int]:
        return await self._inner.receive()

    async def ping(self, num_bytes: int) -> float:
        """A probe as large as a draft frame takes as long as one."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await self._pad(probe_tokens(num_bytes))
        sent_s = loop.time()
        return sent_s - started_s + await self._inner.ping(num_bytes)

    async def close(self) -> None:
        await self._inner.close()

    async def _pad(self, num_tokens: int) -> int:
        frame = padding_frame()
        try:
            for _ in range(num_tokens):
                await self._connection.send(frame)
        except ConnectionClosed as error:
            raise CloudUnreachable("the connection to the verifier was lost") from error
        return num_tokens * len(frame)


class PaddedConnector:
    """Connects to the far side at `address`, "host:port"."""

    def __init__(self, address: str, api_key: str | None, timeout_s: float) -> None:
        self._url = f"ws://{address}{SESSION_PATH}"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s

    async def connect(self) -> PaddedTransport:
        try:
            return PaddedTransport(await asyncio.wait_for(self._connect(), self._timeout_s))
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise CloudUnreachable(f"no far side answers at {self._url} ({error!r})") from error

    async def _connect(self) -> ClientConnection:
        return await connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=self._headers,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            write_limit=_WRITE_LIMIT_BYTES,
            ping_interval=None,  # behind megabytes of padding an answer may come late
            proxy=None,
        )
