"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request, Response
from sse_starlette import ServerSentEvent

from openai_gateway.chat_service import ChatService, SessionOptions
from openai_gateway.http import EventStream, json_response, read_body
from openai_gateway.local import parse_request
from openai_gateway.translation.anthropic.counting import PromptCounter
from openai_gateway.translation.anthropic.encoder import MessageEncoder, MessageFrame, error_body
from openai_gateway.translation.anthropic.request import prompt_fields, translate_request
from openai_gateway.translation.anthropic.schema import OWN_NAMES, CountRequest, MessagesRequest
from openai_gateway.translation.endpoint import (
    StreamFormat,
    error_renderer,
    random_id,
    respond,
    serve,
    typed_event,
)

__all__ = ["messages_router", "render_error"]


class _Endpoint:
    """Serves requests on top of a `ChatService`. Failures are raised."""

    def __init__(
        self,
        service: ChatService,
        counter: PromptCounter,
        *,
        ping_s: float,
        new_id: Callable[[str], str] = random_id,
    ) -> None:
        self._service = service
        self._counter = counter
        self._stream_format = StreamFormat(typed_event, partial(EventStream, ping_s=ping_s, ping=_ping))
        self._new_id = new_id

    async def create(self, body: bytes, options: SessionOptions) -> Response:
        """POST /v1/messages."""
        request = parse_request(MessagesRequest, body)
        form = self._stream_format if request.stream else None
        return await respond(self._service, translate_request(request), options, self._encoder(request), form)

    async def count(self, body: bytes) -> Response:
        """POST /v1/messages/count_tokens."""
        num_tokens = await self._counter.count(prompt_fields(parse_request(CountRequest, body)))
        return json_response({"input_tokens": num_tokens})

    def _encoder(self, request: MessagesRequest) -> MessageEncoder:
        thinking = request.thinking
        frame = MessageFrame(
            self._new_id("msg_"),
            request.model or "default",
            shows_thinking=thinking is None or thinking.display != "omitted",
            max_tokens=request.max_tokens,
        )
        return MessageEncoder(frame, self._new_id)


def messages_router(service: ChatService, counter: PromptCounter, *, ping_s: float) -> APIRouter:
    """The routes, under /v1."""
    endpoint = _Endpoint(service, counter, ping_s=ping_s)
    router = APIRouter(prefix="/v1/messages")

    @router.post("")
    async def create(request: Request) -> Response:
        return await serve(request, endpoint.create)

    @router.post("/count_tokens")
    async def count_tokens(request: Request) -> Response:
        return await endpoint.count(await read_body(request))

    return router


def _ping() -> ServerSentEvent:
    return ServerSentEvent('{"type": "ping"}', event="ping", sep="\n")


render_error = error_renderer(error_body, OWN_NAMES)
