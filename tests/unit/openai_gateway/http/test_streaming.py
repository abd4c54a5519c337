from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from openai_gateway.chat_service import Json, StreamedAnswer
from openai_gateway.errors import InvalidRequest
from openai_gateway.http.streaming import answer_stream, events

SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "headers": []}


async def chunks_of(*chunks: Json, error: Exception | None = None) -> AsyncIterator[Json]:
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


class Endless:
    """An answer whose first chunk never comes; `closed` is set when it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.answer = StreamedAnswer({}, self._chunks(), self._close)

    async def _chunks(self) -> AsyncIterator[Json]:
        await asyncio.Event().wait()
        yield {}

    async def _close(self) -> None:
        self.closed.set()


async def test_every_event_is_one_line() -> None:
    """Events are framed as server-sent events; line breaks in the text are escaped; [DONE] is the last."""
    text = "a\nb\r\n\u2028c"
    event, done = [event async for event in events(chunks_of({"text": text}))]
    assert done == b"data: [DONE]\n\n"
    assert event.startswith(b"data: {")
    assert event.find(b"\n") == len(event) - 2
    assert msgspec.json.decode(event[6:]) == {"text": text}


async def test_error_event_ends_the_stream() -> None:
    """A failure is the last event: no [DONE] follows."""
    failing = chunks_of({"a": 1}, error=InvalidRequest("lost"))
    last = [event async for event in events(failing)][-1]
    assert msgspec.json.decode(last[6:])["error"]["message"] == "lost"


async def test_client_gone_before_the_first_event() -> None:
    """A client that leaves before anything is sent never starts the stream; the answer is closed anyhow."""
    endless = Endless()

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def never_sent(message: Any) -> None:
        await asyncio.Event().wait()

    await asyncio.wait_for(answer_stream(endless.answer, 10.0)(SCOPE, gone, never_sent), 20.0)
    assert endless.closed.is_set()


async def test_send_that_fails() -> None:
    """A connection that breaks while sending closes the answer and the fault is passed on."""
    endless = Endless()

    async def stays() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def broken(message: Any) -> None:
        raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe"):
        await answer_stream(endless.answer, 10.0)(SCOPE, stays, broken)
    assert endless.closed.is_set()
