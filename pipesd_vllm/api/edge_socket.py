"""The WebSocket of one edge: turns frames into protocol messages and faults into exceptions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from pipesd_vllm.api.validation import CloseConnection
from pipesd_vllm.wire import (
    MAX_FRAME_BYTES,
    Ask,
    Cancel,
    CloseReason,
    Control,
    Downstream,
    Draft,
    Open,
    Part,
    ProtocolError,
    Upstream,
    decode_upstream,
    encode,
    in_full,
    to_keep,
)

Message = Open | Ask | Draft | Control | Cancel
"""What an edge says, once it is whole."""

__all__ = ["EdgeLeft", "EdgeSocket", "Message", "Parts", "read_event"]

_TEXT_FRAME: Final = 1003
_BAD_DATA: Final = 1007
_TOO_BIG: Final = 1009


class EdgeLeft(Exception):
    """A frame could not be sent because the edge has gone."""


def read_event(event: Mapping[str, Any]) -> Upstream | None:
    """The message in an ASGI receive event, or None when the edge has left. Raises `CloseConnection`."""
    if event["type"] == "websocket.disconnect":
        return None
    data = event.get("bytes")
    if data is None:
        raise CloseConnection(_TEXT_FRAME, CloseReason.BAD_FRAME, "frames are binary")
    if len(data) > MAX_FRAME_BYTES:
        raise CloseConnection(_TOO_BIG, CloseReason.TOO_LARGE, f"at most {MAX_FRAME_BYTES} bytes a frame")
    try:
        return decode_upstream(data)
    except ProtocolError as error:
        raise CloseConnection(_BAD_DATA, CloseReason.BAD_FRAME, str(error)) from error


class Parts:
    """Makes messages whole that came in parts, at most `limit` bytes each, or were partly said before."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._last_body = b""
        """Of the last `Ask`."""

    def add(self, message: Upstream) -> Message | None:
        """The message that `message` completes, or is; None while there is more to come.

        Raises `CloseConnection`.
        """
        try:
            whole = self._joined(message)
            if isinstance(whole, Ask):
                whole = in_full(whole, self._last_body)
                self._last_body = to_keep(whole)
        except ProtocolError as error:
            raise CloseConnection(_BAD_DATA, CloseReason.BAD_FRAME, str(error)) from error
        return whole

    def _joined(self, message: Upstream) -> Message | None:
        """As `add`, as it was sent. Raises `CloseConnection`, `ProtocolError`."""
        if not isinstance(message, Part):
            if self._data:
                raise ProtocolError("a message is not whole")
            return message
        self._data += message.data
        if len(self._data) > self._limit:
            raise CloseConnection(_TOO_BIG, CloseReason.TOO_LARGE, f"at most {self._limit} bytes a message")
        if not message.last:
            return None
        data, self._data = bytes(self._data), bytearray()
        whole = decode_upstream(data, self._limit)
        if isinstance(whole, Part):
            raise ProtocolError("a part of a part")
        return whole


class EdgeSocket:
    """An accepted `websocket`; `send_timeout_s` bounds how long one frame may wait for its reader."""

    def __init__(self, websocket: WebSocket, send_timeout_s: float) -> None:
        self._websocket = websocket
        self._send_timeout_s = send_timeout_s

    async def receive(self) -> Mapping[str, Any]:
        """The next ASGI event as it came; `read_event` decodes it."""
        return await self._websocket.receive()

    async def send(self, message: Downstream) -> None:
        """Send one frame. Raises `EdgeLeft`, and `CloseConnection` for an edge that does not read."""
        data = encode(message)
        try:
            async with asyncio.timeout(self._send_timeout_s):  # wait_for would start a task a frame
                await self._websocket.send_bytes(data)
        except TimeoutError:
            raise CloseConnection(1008, CloseReason.SLOW_READER, "frames were not read in time") from None
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            # RuntimeError is Starlette's way to say that the connection has been closed.
            raise EdgeLeft(str(error)) from error

    async def close(self, error: CloseConnection) -> None:
        """Close with the code and the reason of `error`; does nothing if the edge has left."""
        with contextlib.suppress(TimeoutError, RuntimeError, OSError, WebSocketDisconnect):
            closing = self._websocket.close(code=error.code, reason=str(error))
            await asyncio.wait_for(closing, self._send_timeout_s)
