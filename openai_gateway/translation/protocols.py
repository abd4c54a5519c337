"""All APIs that are translated to chat requests, as one router."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import APIRouter, Response

from edge_agent.api import Generator, Route, TargetInfo
from openai_gateway.chat_service import ChatService
from openai_gateway.errors import ApiError
from openai_gateway.http import json_response
from openai_gateway.routing import asked_route, served_names
from openai_gateway.translation.anthropic import endpoint as anthropic
from openai_gateway.translation.anthropic.counting import PromptCounter
from openai_gateway.translation.anthropic.endpoint import messages_router
from openai_gateway.translation.endpoint import RenderError
from openai_gateway.translation.ollama import endpoint as ollama
from openai_gateway.translation.ollama.catalog import Catalog, Model
from openai_gateway.translation.ollama.endpoint import LoadCatalog, ollama_router
from openai_gateway.translation.responses.endpoint import responses_router

__all__ = ["catalog_of", "protocols_router", "render_error"]

_ERRORS: Final[Mapping[str, RenderError]] = {
    "/v1/messages": anthropic.render_error,
    "/api": ollama.render_error,
}


def protocols_router(
    service: ChatService, counter: PromptCounter, catalog: LoadCatalog, *, ping_s: float
) -> APIRouter:
    """The router of all three protocols. `ping_s`: time between keep-alives of a stream that is silent."""
    router = APIRouter()
    router.include_router(responses_router(service, ping_s=ping_s))
    router.include_router(messages_router(service, counter, ping_s=ping_s))
    router.include_router(ollama_router(service, catalog))
    return router


def render_error(path: str, error: ApiError) -> Response:
    """`error` in the shape of the protocol that `path` belongs to: OpenAI's unless it is another's."""
    for root, render in _ERRORS.items():
        if path == root or path.startswith(f"{root}/"):
            return render(error)
    return json_response(error.body(), error.status, error.headers)


def catalog_of(generator: Generator, clock: Callable[[], float] = time.time) -> LoadCatalog:
    """What `generator` serves, for Ollama's clients."""
    since_s = clock()

    async def load() -> Catalog:
        target = await generator.target()
        template = (await generator.tokenizer()).chat_template
        names = served_names(target.model, has_draft=target.has_draft)
        return Catalog([_model(name, target, template) for name in names], since_s)

    return load


def _model(name: str, target: TargetInfo, template: str | None) -> Model:
    is_local = name != target.model and asked_route(name) is Route.LOCAL
    context = (target.draft_max_len if is_local else None) or target.max_model_len
    return Model(name, context, template, has_tools=not is_local)
