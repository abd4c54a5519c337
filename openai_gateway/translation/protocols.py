"""All APIs that are translated to chat requests, as one router."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import APIRouter, Response

from openai_gateway.chat_service import ChatService
from openai_gateway.errors import ApiError
from openai_gateway.http import openai_error
from openai_gateway.routing import Fleet, Listed
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


def catalog_of(fleet: Fleet, clock: Callable[[], float] = time.time) -> LoadCatalog:
    """What is served, for Ollama's clients."""
    since_s = clock()

    async def listed_as(name: str) -> str:
        return (await fleet.listed_as(name)).name

    async def load() -> Catalog:
        return Catalog([await _model(each) for each in await fleet.listed()], since_s, listed_as)

    return load


async def _model(listed: Listed) -> Model:
    template = (await listed.member.generator.tokenizer()).chat_template
    return Model(listed.name, listed.max_model_len, template, has_tools=not listed.is_local)
