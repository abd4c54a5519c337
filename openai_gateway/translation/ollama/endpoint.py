"""Ollama's paths under /api."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter, Request, Response

from openai_gateway.chat_service import ChatService, Json, SessionOptions
from openai_gateway.errors import ApiError
from openai_gateway.http import json_response, read_body
from openai_gateway.local import parse_request
from openai_gateway.translation.endpoint import (
    JsonLines,
    StreamFormat,
    error_renderer,
    json_line,
    random_id,
    respond,
    serve,
)
from openai_gateway.translation.ollama.catalog import API_VERSION, Catalog
from openai_gateway.translation.ollama.encoder import ChatEncoder, GenerateEncoder, LineEncoder
from openai_gateway.translation.ollama.request import (
    OWN_NAMES,
    is_completion,
    translate_chat,
    translate_generate,
)
from openai_gateway.translation.ollama.schema import ChatRequest, GenerateRequest, Named

__all__ = ["LoadCatalog", "ollama_router", "render_error"]

LoadCatalog = Callable[[], Awaitable[Catalog]]

_LINES: Final = StreamFormat(json_line, JsonLines)


class _Endpoint:
    """Serves requests on top of a `ChatService`. Failures are raised."""

    def __init__(
        self,
        service: ChatService,
        completions: ChatService,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[str], str] = random_id,
    ) -> None:
        self._service = service
        self._completions = completions
        self._clock = clock
        self._new_id = new_id

    async def chat(self, body: bytes, options: SessionOptions) -> Response:
        """POST /api/chat."""
        request = parse_request(ChatRequest, body)
        encoder = ChatEncoder(request.model, self._clock, self._new_id)
        chat = translate_chat(request)
        if not request.messages:
            return json_response(encoder.loaded(request.keep_alive))
        return await self._answer(self._service, chat, request.stream, encoder, options)

    async def generate(self, body: bytes, options: SessionOptions) -> Response:
        """POST /api/generate."""
        request = parse_request(GenerateRequest, body)
        encoder = GenerateEncoder(request.model, self._clock, self._new_id)
        chat = translate_generate(request)
        if not (request.prompt or request.suffix):
            return json_response(encoder.loaded(request.keep_alive))
        service = self._completions if is_completion(request) else self._service
        return await self._answer(service, chat, request.stream, encoder, options)

    async def _answer(
        self,
        service: ChatService,
        body: Json,
        stream: bool | None,
        encoder: LineEncoder,
        options: SessionOptions,
    ) -> Response:
        return await respond(service, body, options, encoder, None if stream is False else _LINES)


def ollama_router(service: ChatService, completions: ChatService, catalog: LoadCatalog) -> APIRouter:
    """The routes, under /api. `completions` takes bodies of /v1/completions."""
    endpoint = _Endpoint(service, completions)
    router = APIRouter(prefix="/api")

    @router.post("/chat")
    async def chat(request: Request) -> Response:
        return await serve(request, endpoint.chat)

    @router.post("/generate")
    async def generate(request: Request) -> Response:
        return await serve(request, endpoint.generate)

    @router.post("/show")
    async def show(request: Request) -> Response:
        named = parse_request(Named, await read_body(request))
        return json_response(await (await catalog()).show(named.model or named.name))

    @router.post("/pull")
    async def pull(request: Request) -> Response:
        named = parse_request(Named, await read_body(request))
        await (await catalog()).show(named.model or named.name)  # or a 404: nothing is fetched here
        lines: list[Json] = [{"status": "pulling manifest"}, {"status": "success"}]
        if named.stream is False:
            return json_response(lines[-1])
        return Response(b"".join(map(json_line, lines)), media_type="application/x-ndjson")

    _add_reads(router, catalog)
    return router


def _add_reads(router: APIRouter, catalog: LoadCatalog) -> None:
    @router.head("/version", include_in_schema=False)
    @router.get("/version")
    async def version() -> Response:
        return json_response({"version": API_VERSION})

    @router.head("/tags", include_in_schema=False)
    @router.get("/tags")
    async def tags() -> Response:
        return json_response((await catalog()).tags())

    @router.head("/ps", include_in_schema=False)
    @router.get("/ps")
    async def running() -> Response:
        return json_response((await catalog()).running())


def _error_body(error: ApiError) -> Json:
    return {"error": error.message}


render_error = error_renderer(_error_body, OWN_NAMES)
