"""All APIs that are translated to chat requests, as one router."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import APIRouter, Response

from edge_agent.api import Generator, Route, TargetInfo
from openai_gateway.chat_service import ChatService
from openai_gateway.errors import ApiError
from openai_gateway.http import openai_error
from openai_gateway.routing import LISTED_FOR_S, OWN_NAMES, ModelNames
from openai_gateway.translation.anthropic import endpoint as anthropic
from openai_gateway.translation.anthropic.counting import PromptCounter
from openai_gateway.translation.anthropic.endpoint import messages_router
from openai_gateway.translation.endpoint import RenderError
from openai_gateway.translation.llama.endpoint import llama_router
from openai_gateway.translation.ollama import endpoint as ollama
from openai_gateway.translation.ollama.catalog import Catalog, Model
from openai_gateway.translation.ollama.endpoint import LoadCatalog, ollama_router
from openai_gateway.translation.responses import endpoint as responses
from openai_gateway.translation.responses.endpoint import responses_router

__all__ = ["catalog_of", "protocols_router", "render_error"]

_ERRORS: Final[Mapping[str, RenderError]] = {
    "/v1/messages": anthropic.render_error,
    "/v1/responses": responses.render_error,
    "/api": ollama.render_error,
}


def protocols_router(
    service: ChatService,
    completions: ChatService,
    counter: PromptCounter,
    catalog: LoadCatalog,
    *,
    ping_s: float,
) -> APIRouter:
    """The router of all protocols; `completions` takes bodies of /v1/completions.

    `ping_s`: time between keep-alives of a stream that is silent.
    """
    router = APIRouter()
    router.include_router(responses_router(service, ping_s=ping_s))
    router.include_router(messages_router(service, counter, ping_s=ping_s))
    router.include_router(ollama_router(service, completions, catalog))
    router.include_router(llama_router(completions, ping_s=ping_s))
    return router


def render_error(path: str, error: ApiError) -> Response:
    """`error` in the shape of the protocol that `path` belongs to: OpenAI's unless it is another's."""
    for root, render in _ERRORS.items():
        if path == root or path.startswith(f"{root}/"):
            return render(error)
    return openai_error(path, error)


def catalog_of(
    generator: Generator, names: ModelNames = OWN_NAMES, clock: Callable[[], float] = time.time
) -> LoadCatalog:
    """What `generator` serves, for Ollama's clients."""
    since_s = clock()

    async def load() -> Catalog:
        target = await generator.target(max_age_s=LISTED_FOR_S)
        template = (await generator.tokenizer()).chat_template
        models = [_model(name, names, target, template) for name in names.listed(target)]
        return Catalog(models, since_s, lambda name: names.listed_as(name, target))

    return load


def _model(name: str, names: ModelNames, target: TargetInfo, template: str | None) -> Model:
    is_local = name != target.model and names.route(name) is Route.LOCAL
    context = (target.draft_max_len if is_local else None) or target.max_model_len
    return Model(name, context, template, has_tools=not is_local)
