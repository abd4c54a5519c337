"""POST /v1/responses and what goes with it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter, Request, Response

from openai_gateway.chat_service import ChatService, Json, StreamedAnswer
from openai_gateway.errors import ApiError
from openai_gateway.http.requests import json_response, read_body, unless_gone
from openai_gateway.http.streaming import EventStream
from openai_gateway.local.schema import parse_request
from openai_gateway.routing.options import SessionOptions, session_options
from openai_gateway.translation.ids import random_id
from openai_gateway.translation.parameters import with_own_names
from openai_gateway.translation.responses.encoder import ResponsesEncoder
from openai_gateway.translation.responses.output import conversation_after
from openai_gateway.translation.responses.request import Translated, translate_request
from openai_gateway.translation.responses.schema import OWN_NAMES, ResponsesRequest
from openai_gateway.translation.responses.skeleton import skeleton
from openai_gateway.translation.responses.store import ResponseStore, StoredResponse
from openai_gateway.translation.routes import route_class
from openai_gateway.translation.streams import as_stream, encoded, encoded_whole, sse_event

__all__ = ["LEFT_OUT_HEADER", "ResponsesEndpoint", "responses_router"]

LEFT_OUT_HEADER = "x-pipesd-left-out"
"""Types of the tools that were not offered to the model, with commas between them."""


class ResponsesEndpoint:
    """Serves one request at a time on top of a `ChatService`. Failures are raised."""

    def __init__(
        self,
        service: ChatService,
        store: ResponseStore,
        *,
        ping_s: float,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[str], str] = random_id,
    ) -> None:
        self._service = service
        self._store = store
        self._ping_s = ping_s
        self._clock = clock
        self._new_id = new_id

    async def create(self, body: bytes, options: SessionOptions) -> Response:
        """POST /v1/responses."""
        request = parse_request(ResponsesRequest, body)
        previous = request.previous_response_id
        earlier = () if previous is None else self._store.previous(previous).conversation
        chat = translate_request(request, earlier)
        response_id = self._new_id("resp_")
        frame = skeleton(request, chat.tools, response_id, int(self._clock()))
        encoder = ResponsesEncoder(frame, chat.tools, self._new_id)
        if request.stream:
            return await self._stream(chat, encoder, options)
        return await self._whole(chat, encoder, options)

    def _keep(self, response: Json, chat: Translated, encoder: ResponsesEncoder) -> None:
        if response["store"]:
            conversation = conversation_after(chat.conversation, encoder.state.tracker.blocks)
            self._store.put(StoredResponse(response, conversation))

    async def _whole(self, chat: Translated, encoder: ResponsesEncoder, options: SessionOptions) -> Response:
        answer = await self._service.whole(chat.body, options)
        response = encoded_whole(answer.body, encoder)
        self._keep(response, chat, encoder)
        return json_response(response, headers={**answer.headers, **_left_out(chat)})

    async def _stream(self, chat: Translated, encoder: ResponsesEncoder, options: SessionOptions) -> Response:
        answer = await self._service.stream(as_stream(chat.body), options)
        headers = {**answer.headers, **_left_out(chat)}
        return EventStream(self._events(answer, chat, encoder), headers, self._ping_s, answer.close)

    async def _events(
        self, answer: StreamedAnswer, chat: Translated, encoder: ResponsesEncoder
    ) -> AsyncIterator[bytes]:
        def render(event: Json) -> bytes:
            # Kept before the client hears of it: its next request may come at once.
            if event["type"] in ("response.completed", "response.incomplete"):
                self._keep(event["response"], chat, encoder)
            return sse_event(event)

        async for data in encoded(answer, encoder, render):
            yield data


def responses_router(service: ChatService, *, ping_s: float, store: ResponseStore | None = None) -> APIRouter:
    """The routes, under /v1."""
    store = store or ResponseStore()
    endpoint = ResponsesEndpoint(service, store, ping_s=ping_s)
    router = APIRouter(prefix="/v1/responses", route_class=route_class(_render_error))

    @router.post("")
    async def create(request: Request) -> Response:
        body = await read_body(request)
        return await unless_gone(request, endpoint.create(body, session_options(request.headers)))

    @router.get("/{response_id}")
    async def retrieve(response_id: str) -> Response:
        return json_response(store.get(response_id).response)

    @router.delete("/{response_id}")
    async def delete(response_id: str) -> Response:
        store.delete(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    return router


def _left_out(chat: Translated) -> dict[str, str]:
    types = sorted(set(chat.tools.left_out))
    return {LEFT_OUT_HEADER: ", ".join(types)} if types else {}


def _render_error(error: ApiError) -> Response:
    own = with_own_names(error, OWN_NAMES)
    return json_response(own.body(), own.status, own.headers)
