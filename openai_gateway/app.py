"""The gateway's web application: which path does what."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from edge_agent.api import Generator
from openai_gateway.gateway import Gateway, GatewayTimings
from openai_gateway.http.access import ANY_ORIGIN, LOOPBACK_ONLY, AccessPolicy, BrowserGuard, Cors
from openai_gateway.http.requests import install_error_handlers, key_check, read_body, unless_gone
from openai_gateway.observe.metrics import GatewayMetrics, metrics_router
from openai_gateway.observe.requests import RequestObserver
from openai_gateway.routing.options import session_options
from openai_gateway.routing.seeds import SEED_HEADER
from openai_gateway.translation.anthropic.counting import GeneratorPromptCounter
from openai_gateway.translation.openapi import DocumentedApp
from openai_gateway.translation.protocols import catalog_of, protocols_router, render_error
from openai_gateway.translation.responses.endpoint import LEFT_OUT_HEADER
from openai_gateway.web.pages import web_router

__all__ = ["create_app"]

_EXPOSED = ("x-pipesd-route", SEED_HEADER, "x-request-id", "retry-after", LEFT_OUT_HEADER)
"""Headers of answers that pages of other origins may read."""


def create_app(
    generator: Generator,
    *,
    api_key: str | None = None,
    access: AccessPolicy = LOOPBACK_ONLY,
    timings: GatewayTimings | None = None,
    metrics: GatewayMetrics | None = None,
    observers: Sequence[RequestObserver] = (),
) -> FastAPI:
    """An ASGI application that serves OpenAI's API from `generator`, which the caller closes.

    With `api_key`, everything under /v1 and /api needs it; without one, `access` says which requests are
    answered, on every path. `metrics` are shown under /metrics; `observers` are told of each request as well.
    """
    app = DocumentedApp(title="PipeSD gateway", docs_url=None, redoc_url=None)
    install_error_handlers(app)
    # Any origin is safe with a key only: it is in a header, not in a cookie that browsers send by themselves.
    any_origin = bool(api_key) and ANY_ORIGIN in access.origins
    app.add_middleware(Cors, policy=access, any_origin=any_origin, expose_headers=_EXPOSED)
    if not api_key:
        app.add_middleware(BrowserGuard, policy=access, render=render_error)  # the outermost
    metrics = metrics or GatewayMetrics()
    gateway = Gateway(generator, timings, observers=(metrics, *observers))
    app.include_router(metrics_router(metrics.registry), include_in_schema=False)
    app.include_router(web_router(), include_in_schema=False)
    app.include_router(_open_routes(gateway))
    guarded = [Depends(key_check(api_key))]
    app.include_router(_api_routes(gateway), dependencies=guarded)
    ping_s = (timings or GatewayTimings()).ping_s
    counter = GeneratorPromptCounter(generator)
    translated = protocols_router(
        gateway.chats, gateway.fitting_chats, counter, catalog_of(generator), ping_s=ping_s
    )
    app.include_router(translated, dependencies=guarded)
    return app


def _open_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> Response:
        return await gateway.health()

    return router


def _api_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await unless_gone(
            request, gateway.chat(await read_body(request), session_options(request.headers))
        )

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        return await unless_gone(
            request, gateway.complete(await read_body(request), session_options(request.headers))
        )

    @router.head("/models", include_in_schema=False)
    @router.get("/models")
    async def models() -> Response:
        return await gateway.models()

    @router.head("/models/{name:path}", include_in_schema=False)
    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        return await gateway.model(name)

    return router
