"""An edge's WebSocket: what is no message of the protocol ends the connection, with the right close code."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_vllm.api.edge_socket import EdgeLeft, EdgeSocket, read_event
from pipesd_vllm.api.validation import CloseConnection
from pipesd_vllm.wire import MAX_FRAME_BYTES, Cancel, CloseReason, RefusalCode, Refused, encode

REFUSED = Refused(1, RefusalCode.OVERLOADED, "later")


def received(**event: Any) -> dict[str, Any]:
    return {"type": "websocket.receive", **event}


def test_messages_and_leaving() -> None:
    """A binary frame is its message, a disconnect is None."""
    assert read_event(received(bytes=encode(Cancel(3)))) == Cancel(3)
    assert read_event({"type": "websocket.disconnect", "code": 1001}) is None


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        (received(text="hello"), 1003, CloseReason.BAD_FRAME),
        (received(bytes=None, text="hello"), 1003, CloseReason.BAD_FRAME),
        (received(bytes=bytes(MAX_FRAME_BYTES + 1)), 1009, CloseReason.TOO_LARGE),
        (received(bytes=b"\xc1"), 1007, CloseReason.BAD_FRAME),
    ],
)
def test_what_is_no_message(event: dict[str, Any], code: int, reason: CloseReason) -> None:
    """Text, frames that are too long and bytes that cannot be decoded have close codes of their own."""
    with pytest.raises(CloseConnection) as raised:
        read_event(event)
    assert (raised.value.code, raised.value.reason) == (code, reason)


async def test_a_slow_reader_is_cut_off() -> None:
    """A frame that nobody reads ends the connection after the timeout."""
    websocket: Any = SimpleNamespace(send_bytes=lambda data: asyncio.sleep(60))
    with pytest.raises(CloseConnection) as raised:
        await EdgeSocket(websocket, 0.01).send(REFUSED)
    assert raised.value.reason == CloseReason.SLOW_READER


@pytest.mark.parametrize("failure", [OSError("broken pipe"), RuntimeError("closed")])
async def test_an_edge_that_has_left(failure: Exception) -> None:
    """Sending says so; closing takes it for done."""

    async def fail(*args: object, **kwargs: object) -> None:
        raise failure

    websocket: Any = SimpleNamespace(send_bytes=fail, close=fail)
    socket = EdgeSocket(websocket, 1.0)
    with pytest.raises(EdgeLeft, match=str(failure)):
        await socket.send(REFUSED)
    await socket.close(CloseConnection(1000, CloseReason.IDLE, "idle"))
