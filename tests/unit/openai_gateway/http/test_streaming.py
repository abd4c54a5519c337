from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from openai_gateway.chat_service import Json, StreamedAnswer
from openai_gateway.errors import InvalidRequest
from openai_gateway.http import answer_stream, read_events, sse_event
from openai_gateway.http.streaming import events

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


STREAM = (
    'data: {"a":"\u2028é"}\n\n: ping\n\nevent: x\r\ndata:{"b":1}\r\n\r\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n'
).encode()
EVENTS = ['{"a":"\u2028é"}'.encode(), b'{"b":1}', b"1\n2", b"[DONE]"]


async def in_parts(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_however_they_are_cut(size: int) -> None:
    """Whole events come out whole, whatever the network did to the stream."""
    parts = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event async for event in read_events(in_parts(parts))] == EVENTS


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\r"])
@pytest.mark.parametrize("last", ["[DONE]", '{"a":1}'])
async def test_the_last_event_may_lack_its_empty_line(end: str, last: str) -> None:
    """What ends with the connection is one, too, unless it was cut short."""
    parts = [f"data: 1\n\ndata: {last}{end}".encode()]
    assert [event async for event in read_events(in_parts(parts))] == [b"1", last.encode()]
    cut = [f"data: 1\n\ndata: {last[:-1]}".encode()]
    assert [event async for event in read_events(in_parts(cut))] == [b"1"]


@pytest.mark.parametrize("character", list("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"))
def test_events_are_one_line_to_everybody(character: str) -> None:
    """Clients that split at any of Unicode's line ends find the event whole, and the character in it."""
    data = sse_event({"a": f"x{character}y"}).decode()
    [line] = [line for line in data.splitlines() if line]
    assert msgspec.json.decode(line.removeprefix("data: ")) == {"a": f"x{character}y"}
