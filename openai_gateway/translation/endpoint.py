"""What the endpoints of the translated protocols share: encoded answers, errors in the protocol's shape."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from openai_gateway.chat_service import (
    ChatService,
    Json,
    SessionOptions,
    StreamedAnswer,
    WholeAnswer,
    session_options,
)
from openai_gateway.errors import ApiError, translate
from openai_gateway.http import UNBUFFERED, json_response, json_text, read_body, sse_event, unless_gone
from openai_gateway.translation.answer import chunk_of_whole
from openai_gateway.translation.parameters import with_own_names

__all__ = [
    "Encoder",
    "JsonLines",
    "RenderError",
    "StreamFormat",
    "error_renderer",
    "json_line",
    "random_id",
    "respond",
    "serve",
    "typed_event",
]


class Encoder(Protocol):
    """Chat chunks in, one protocol's events out, as JSON objects."""

    def start(self) -> Iterable[Json]:
        """What comes before there is any chunk."""
        ...

    def feed(self, chunk: Mapping[str, Any]) -> Iterable[Json]:
        """What `chunk` adds. Raises `ApiError` if this protocol has no form for it."""
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


class StreamResponse(Protocol):
    """Makes the response that sends `content` and calls `close` however it ends."""

    def __call__(
        self, content: AsyncIterator[bytes], headers: Mapping[str, str], close: Callable[[], Awaitable[None]]
    ) -> Response: ...


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """How a protocol streams: each event `render`ed to bytes, all of them in a `response`."""

    render: Callable[[Json], bytes]
    response: StreamResponse


async def serve(
    request: Request, endpoint: Callable[[bytes, SessionOptions], Coroutine[Any, Any, Response]]
) -> Response:
    """`endpoint`'s response to the request's body and options, cancelled when the client goes away."""
    body = await read_body(request)
    return await unless_gone(request, endpoint(body, replace(session_options(request.headers), drafts=False)))


async def respond(
    service: ChatService,
    chat: Mapping[str, Any],
    options: SessionOptions,
    encoder: Encoder,
    form: StreamFormat | None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer of `service` to the chat request `chat`, in the protocol of `encoder`.

    It is streamed in `form`, with its usage at the end; without one it is whole. `headers` are added to the
    answer's own. Raises `ApiError` or `EdgeError` while nothing has been answered yet.
    """
    if form is not None:
        options_of_stream = {**chat.get("stream_options", {}), "include_usage": True}
        chat = {**chat, "stream": True, "stream_options": options_of_stream}
    answer = await service.answer(chat, options)
    headers = {**answer.headers, **(headers or {})}
    if isinstance(answer, WholeAnswer):
        return json_response(_encoded_whole(answer.body, encoder), headers=headers)
    assert form is not None, "a service streams only when it is asked to"
    return form.response(_encoded(answer, encoder, form.render), headers=headers, close=answer.close)


def failed(encoder: Encoder, error: ApiError, form: StreamFormat) -> Response:
    """A stream that only says that the request failed."""

    async def content() -> AsyncIterator[bytes]:
        for event in (*encoder.start(), *encoder.fail(error)):
            yield form.render(event)

    async def close() -> None: ...

    return form.response(content(), headers={}, close=close)


def _encoded_whole(body: Mapping[str, Any], encoder: Encoder) -> Json:
    for _ in (*encoder.feed(chunk_of_whole(body)), *encoder.end()):
        pass
    return encoder.final()


async def _encoded(
    answer: StreamedAnswer, encoder: Encoder, render: Callable[[Json], bytes]
) -> AsyncIterator[bytes]:
    """All events of `answer`; a failure in mid-stream becomes the last event."""
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


def typed_event(event: Json) -> bytes:
    """`event` as a server-sent event that is named by its `type`."""
    return sse_event(event, event["type"])


def json_line(event: Json) -> bytes:
    """`event` as one line of NDJSON."""
    return json_text(event) + b"\n"


class JsonLines(StreamingResponse):
    """Sends `content` as NDJSON and calls `close` however it ends."""

    def __init__(
        self, content: AsyncIterator[bytes], headers: Mapping[str, str], close: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(content, headers={**UNBUFFERED, **headers}, media_type="application/x-ndjson")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


RenderError = Callable[[ApiError], Response]
"""An error as the protocol answers it."""


def error_renderer(body: Callable[[ApiError], Json], own_names: Mapping[str, str]) -> RenderError:
    """Answers errors with `body`, their parameters under the protocol's own names."""

    def render(error: ApiError) -> Response:
        own = with_own_names(error, own_names)
        return json_response(body(own), own.status, own.headers)

    return render


def random_id(prefix: str) -> str:
    """`prefix` and 32 random hexadecimal digits."""
    return prefix + uuid.uuid4().hex
