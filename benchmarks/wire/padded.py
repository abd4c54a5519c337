"""The published wire: every draft token travels with its distribution, the bytes really sent.

The public reproduction packs 32,256 float64 in msgpack, 9 bytes each. Here as many bytes go before the draft
frame on the same connection, so that the frame arrives after them; the far side (`far_side.py`) drops them.
"""

from __future__ import annotations

import asyncio
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from edge_agent.errors import CloudUnreachable
from edge_agent.verifier.websocket import WebSocketTransport
from pipesd_vllm.wire import MAX_FRAME_BYTES, SESSION_PATH, SUBPROTOCOL, Draft, Upstream

__all__ = ["PUBLISHED_TOKEN_BYTES", "PaddedConnector", "is_padding"]

PUBLISHED_TOKEN_BYTES: Final = 9 * 32_256
"""Bytes a draft token, in addition to the frame that carries its id."""
_MARK: Final = b"\xc1"  # the one byte that msgpack never uses
_PADDING: Final = _MARK * PUBLISHED_TOKEN_BYTES
_PROBE_HEADER_BYTES: Final = 12
_PROBE_TOKEN_BYTES: Final = 3
# The paper uploads beside drafting: a send that waited for the line would hold the session loop up.
_WRITE_LIMIT_BYTES: Final = 1 << 28


def is_padding(message: str | bytes) -> bool:
    """Whether the far side drops `message` instead of passing it on."""
    return message[:1] == _MARK


class _PaddedTransport(WebSocketTransport):
    """A `Transport` to a far side, which takes the padding off."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__(connection)
        self._padded = connection

    async def send(self, message: Upstream) -> int:
        num_padding = await self._pad(len(message.tokens)) if isinstance(message, Draft) else 0
        return num_padding + await super().send(message)

    async def ping(self, num_bytes: int) -> float:
        """A probe as large as a frame of n draft tokens (`verifier/link_probe.py`) takes as long as one."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await self._pad(max(0, num_bytes - _PROBE_HEADER_BYTES) // _PROBE_TOKEN_BYTES)
        return loop.time() - started_s + await super().ping(num_bytes)

    async def _pad(self, num_tokens: int) -> int:
        try:
            for _ in range(num_tokens):
                await self._padded.send(_PADDING)
        except ConnectionClosed as error:
            raise CloudUnreachable("the connection to the verifier was lost") from error
        return num_tokens * PUBLISHED_TOKEN_BYTES


class PaddedConnector:
    """Connects to the far side at `address`, "host:port"."""

    def __init__(self, address: str, api_key: str | None, timeout_s: float) -> None:
        self._url = f"ws://{address}{SESSION_PATH}"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s

    async def connect(self) -> WebSocketTransport:
        opening = connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=self._headers,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            max_queue=None,
            write_limit=_WRITE_LIMIT_BYTES,
            ping_interval=None,  # behind megabytes of padding an answer may come late
            close_timeout=1.0,
            open_timeout=self._timeout_s,
            proxy=None,
        )
        try:
            return _PaddedTransport(await opening)
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise CloudUnreachable(f"no far side answers at {self._url} ({error!r})") from error
