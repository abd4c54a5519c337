"""Streamed answers as bytes: server-sent events and JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from openai_gateway.chat_service import Json, StreamedAnswer
from openai_gateway.errors import ApiError, translate
from openai_gateway.translation.deltas import chunk_of_whole

__all__ = ["Encoder", "JsonLines", "as_stream", "encoded", "encoded_whole", "json_line", "sse_event"]

encode_json = msgspec.json.Encoder().encode


class Encoder(Protocol):
    """Chat chunks in, one protocol's events out, as JSON objects."""

    def start(self) -> Iterable[Json]:
        """What comes before there is any chunk."""
        ...

    def feed(self, chunk: Mapping[str, Any]) -> Iterable[Json]:
        """What `chunk` adds. Raises `ApiError` if it cannot be told in this protocol."""
        ...

    def end(self) -> Iterable[Json]:
        """The answer is complete."""
        ...

    def fail(self, error: ApiError) -> Iterable[Json]:
        """The answer ended with `error`."""
        ...

    def final(self) -> Json:
        """The object of an answer that is complete."""
        ...


def as_stream(chat: Mapping[str, Any]) -> Json:
    """The chat request `chat`, to be streamed with its usage at the end."""
    return {**chat, "stream": True, "stream_options": {"include_usage": True}}


def encoded_whole(body: Mapping[str, Any], encoder: Encoder) -> Json:
    """A `chat.completion` body as the one object of `encoder`'s protocol. Raises `ApiError` like `feed`."""
    for _ in (*encoder.feed(chunk_of_whole(body)), *encoder.end()):
        pass
    return encoder.final()


async def encoded(
    answer: StreamedAnswer, encoder: Encoder, render: Callable[[Json], bytes]
) -> AsyncIterator[bytes]:
    """All events of `answer`, each rendered to bytes; a failure in mid-stream becomes the last event."""
    for event in encoder.start():
        yield render(event)
    try:
        async for chunk in answer.chunks:
            for event in encoder.feed(chunk):
                yield render(event)
        for event in encoder.end():
            yield render(event)
    except Exception as error:
        for event in encoder.fail(translate(error)):
            yield render(event)


def sse_event(event: Json) -> bytes:
    """`event` as a server-sent event that is named by its `type`."""
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + encode_json(event) + b"\n\n"


def json_line(event: Json) -> bytes:
    """`event` as one line of NDJSON."""
    return encode_json(event) + b"\n"


class JsonLines(StreamingResponse):
    """Sends `content` as NDJSON and closes `answer` whatever happens."""

    def __init__(self, answer: StreamedAnswer, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, headers=answer.headers, media_type="application/x-ndjson")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._answer):
            await super().__call__(scope, receive, send)
