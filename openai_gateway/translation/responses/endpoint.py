"""POST /v1/responses, and reading and deleting stored responses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from edge_agent.errors import EdgeError
from openai_gateway.chat_service import ChatService, Json, SessionOptions
from openai_gateway.errors import ApiError, translate
from openai_gateway.http import EventStream, json_response
from openai_gateway.local import parse_request
from openai_gateway.translation.answer import Block
from openai_gateway.translation.endpoint import (
    StreamFormat,
    error_renderer,
    failed,
    random_id,
    respond,
    serve,
    typed_event,
)
from openai_gateway.translation.responses.encoder import ResponsesEncoder
from openai_gateway.translation.responses.output import conversation_after, skeleton
from openai_gateway.translation.responses.request import translate_request
from openai_gateway.translation.responses.schema import OWN_NAMES, ResponsesRequest
from openai_gateway.translation.responses.store import ResponseStore, StoredResponse
from openai_gateway.translation.responses.tools import ToolTable

__all__ = ["LEFT_OUT_HEADER", "render_error", "responses_router"]

LEFT_OUT_HEADER = "x-pipesd-left-out"
"""Response header: the types of the tools that were not offered to the model, separated by commas."""


class _Endpoint:
    """Serves requests on top of a `ChatService`. Failures are raised."""

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
        self._stream_format = StreamFormat(typed_event, partial(EventStream, ping_s=ping_s))
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

        def keep(response: Json, blocks: Sequence[Block]) -> None:
            if response["store"]:
                self._store.put(StoredResponse(response, conversation_after(chat.conversation, blocks)))

        encoder = ResponsesEncoder(frame, chat.tools, self._new_id, keep)
        form = self._stream_format if request.stream else None
        try:
            return await respond(self._service, chat.body, options, encoder, form, _left_out(chat.tools))
        except (ApiError, EdgeError) as error:
            # Codex looks for the code in a stream's last event alone, where OpenAI has it.
            if form is None or (known := translate(error)).code != "context_length_exceeded":
                raise
            return failed(encoder, known, form)


def responses_router(service: ChatService, *, ping_s: float, store: ResponseStore | None = None) -> APIRouter:
    """The routes, under /v1."""
    store = store or ResponseStore()
    endpoint = _Endpoint(service, store, ping_s=ping_s)
    router = APIRouter(prefix="/v1/responses")

    @router.post("")
    async def create(request: Request) -> Response:
        return await serve(request, endpoint.create)

    @router.get("/{response_id}")
    async def retrieve(response_id: str) -> Response:
        return json_response(store.get(response_id).response)

    @router.delete("/{response_id}")
    async def delete(response_id: str) -> Response:
        store.delete(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    return router


def _left_out(tools: ToolTable) -> dict[str, str]:
    types = sorted(set(tools.left_out))
    return {LEFT_OUT_HEADER: ", ".join(types)} if types else {}


render_error = error_renderer(ApiError.body, OWN_NAMES)
