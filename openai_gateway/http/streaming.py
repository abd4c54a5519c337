"""Answers as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from openai_gateway.chat_service import Json, StreamedAnswer
from openai_gateway.errors import ApiError

__all__ = ["UNBUFFERED", "EventStream", "answer_stream", "events", "json_text", "read_events", "sse_event"]

DONE = b"data: [DONE]\n\n"
UNBUFFERED: Final = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
"""Asks proxies to pass each piece on as it comes: nginx not to gather them, others not to compress them."""

_encode = msgspec.json.Encoder().encode
_SPLITS: Final = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}
"""Characters at which some clients split lines (Python's `str.splitlines`): escaped, they mean the same."""


def json_text(body: Mapping[str, Any]) -> bytes:
    """`body` as JSON that is one line to everybody."""
    text = _encode(body)
    for character, escaped in _SPLITS.items():
        if character in text:
            text = text.replace(character, escaped)
    return text


def sse_event(body: Mapping[str, Any], name: str | None = None) -> bytes:
    """`body` as a server-sent event, called `name` if there is one."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json_text(body) + b"\n\n"


async def events(chunks: AsyncIterator[Json]) -> AsyncIterator[bytes]:
    """One event for each chunk, then [DONE]. If the answer fails, the last event has the error instead."""
    try:
        async for chunk in chunks:
            yield sse_event(chunk)
    except ApiError as error:
        yield sse_event(error.body())
        return
    yield DONE


def _keep_alive() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")


class EventStream(EventSourceResponse):
    """Sends `content`, with a `ping` (a comment) every `ping_s` seconds, and calls `close` however it ends.

    A client that goes away before the first event never starts `content`, so that alone could
    not close the answer.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        headers: Mapping[str, str],
        ping_s: float,
        close: Callable[[], Awaitable[None]],
        ping: Callable[[], ServerSentEvent] = _keep_alive,
    ) -> None:
        super().__init__(
            content, headers={**UNBUFFERED, **headers}, ping=ping_s, sep="\n", ping_message_factory=ping
        )
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


def answer_stream(answer: StreamedAnswer, ping_s: float) -> EventStream:
    """The response that streams `answer` and closes it."""
    return EventStream(events(answer.chunks), answer.headers, ping_s, answer.aclose)


_DATA = b"data:"


async def read_events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event, in order; comments and other fields are skipped.

    Lines end with LF or CR LF alone: JSON may hold the other line separators of Unicode as they are. The end
    ends the last line and the last event, too: not every server writes an empty line after it.
    """
    rest = b""
    data: list[bytes] = []
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(_DATA):
                data.append(line[len(_DATA) :].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
    if rest.startswith(_DATA) and _is_whole(last := rest[len(_DATA) :].strip()):
        data.append(last)
    if data:
        yield b"\n".join(data)


def _is_whole(data: bytes) -> bool:
    """Whether the line that the end of a stream ended was not cut short by it."""
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data == b"[DONE]"
    return True
