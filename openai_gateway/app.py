"""The gateway's web application: which path does what."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from edge_agent.api import Generator, Route, TargetInfo
from openai_gateway.chat_service import (
    SEED_HEADER,
    ChatService,
    Json,
    SessionOptions,
    StreamedAnswer,
    session_options,
)
from openai_gateway.http import (
    ANY_ORIGIN,
    DEFAULT_LABEL,
    LOOPBACK_ONLY,
    AccessPolicy,
    ApiKeys,
    BrowserGuard,
    Cors,
    HttpWatcher,
    PathRepair,
    RequestContext,
    answer_stream,
    install_error_handlers,
    json_response,
    key_check,
    read_body,
    unless_gone,
)
from openai_gateway.local import CHAT, COMPLETIONS, GatewayTimings, LocalAnswers, decode_body, model_card
from openai_gateway.observe import GatewayMetrics, ObservedService, RequestObserver, metrics_router
from openai_gateway.passed_on import embeddings_router, out_of_scope_router, tokens_router
from openai_gateway.routing import LISTED_FOR_S, OWN_NAMES, ModelNames, RoutedService
from openai_gateway.target import Forwarder, TargetAnswers
from openai_gateway.translation import (
    LEFT_OUT_HEADER,
    DocumentedApp,
    GeneratorPromptCounter,
    catalog_of,
    model_entry,
    model_list,
    protocols_router,
    render_error,
)
from openai_gateway.web.pages import web_router

__all__ = ["Gateway", "GatewayTimings", "create_app"]


_EXPOSED = ("x-pipesd-route", SEED_HEADER, "x-request-id", "retry-after", LEFT_OUT_HEADER)
"""Headers of answers that pages of other origins may read."""


def create_app(
    generator: Generator,
    *,
    api_key: str | None = None,
    keys: ApiKeys | None = None,
    access: AccessPolicy = LOOPBACK_ONLY,
    names: ModelNames = OWN_NAMES,
    embeddings: Forwarder | None = None,
    timings: GatewayTimings | None = None,
    metrics: GatewayMetrics | None = None,
    observers: Sequence[RequestObserver] = (),
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """An ASGI application that serves OpenAI's API from `generator`, which the caller closes.

    With `api_key`, or `keys`, everything under /v1 and /api needs one; without any, `access` says which
    requests are answered, on every path. `metrics` are shown under /metrics; `observers` are told of each
    request as well. `embeddings` is asked for embeddings in place of the target's server, and closed when
    the application ends. `clock` gives Unix times in seconds.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if embeddings is not None:
                await embeddings.close()

    app = DocumentedApp(title="PipeSD gateway", docs_url=None, redoc_url=None, lifespan=lifespan)
    install_error_handlers(app, render_error)
    app.add_middleware(PathRepair)
    # Any origin is safe with a key only: it is in a header, not in a cookie that browsers send by themselves.
    keys = keys or ApiKeys({api_key: DEFAULT_LABEL} if api_key else {})
    any_origin = bool(keys) and ANY_ORIGIN in access.origins
    app.add_middleware(Cors, policy=access, any_origin=any_origin, expose_headers=_EXPOSED)
    if not keys:
        app.add_middleware(BrowserGuard, policy=access, render=render_error)  # around all that answers
    metrics = metrics or GatewayMetrics()
    watchers = [each for each in (metrics, *observers) if isinstance(each, HttpWatcher)]
    app.add_middleware(RequestContext, watchers=tuple(watchers))
    gateway = Gateway(generator, timings, clock, (metrics, *observers), names)
    app.include_router(metrics_router(metrics.registry), include_in_schema=False)
    app.include_router(web_router(), include_in_schema=False)
    app.include_router(_open_routes(gateway))
    guarded = [Depends(key_check(keys))]
    app.include_router(_api_routes(gateway), dependencies=guarded)
    ping_s = (timings or GatewayTimings()).ping_s
    counter = GeneratorPromptCounter(generator)
    catalog = catalog_of(generator, names)
    translated = protocols_router(gateway.chats, gateway.completions, counter, catalog, ping_s=ping_s)
    passed_on = (
        embeddings_router(generator, embeddings, names),
        tokens_router(generator),
        out_of_scope_router(),
    )
    for router in (translated, *passed_on):
        app.include_router(router, dependencies=guarded)
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
    async def models(request: Request) -> Response:
        return await gateway.models(anthropic=_ANTHROPIC in request.headers)

    @router.head("/models/{name:path}", include_in_schema=False)
    @router.get("/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        return await gateway.model(name, anthropic=_ANTHROPIC in request.headers)

    return router


_ANTHROPIC: Final = "anthropic-version"
"""A header of all Anthropic's clients, who list models under the same path."""
DEFAULT_OPTIONS: Final = SessionOptions()


class Gateway:
    """The endpoints. Every failure is raised as `ApiError` or `EdgeError`."""

    def __init__(
        self,
        generator: Generator,
        timings: GatewayTimings | None = None,
        clock: Callable[[], float] = time.time,
        observers: Sequence[RequestObserver] = (),
        names: ModelNames = OWN_NAMES,
    ) -> None:
        self._names = names
        self._generator = generator
        self._timings = timings or GatewayTimings()
        self._started_s = int(clock())
        local = LocalAnswers(generator, self._timings, clock)
        by_target = TargetAnswers(generator, local, self._timings.first_chunk_s)
        chats = RoutedService(CHAT, generator, local, by_target, names)
        self.chats: ChatService = ObservedService(chats, "chat", observers)
        """The service that the translated chat APIs use."""
        raw = RoutedService(COMPLETIONS, generator, local, by_target, names)
        self.completions: ChatService = ObservedService(raw, "completions", observers)

    async def chat(self, body: bytes, options: SessionOptions = DEFAULT_OPTIONS) -> Response:
        """POST /v1/chat/completions."""
        return await self._respond(self.chats, body, options)

    async def complete(self, body: bytes, options: SessionOptions = DEFAULT_OPTIONS) -> Response:
        """POST /v1/completions."""
        return await self._respond(self.completions, body, options)

    async def models(self, *, anthropic: bool = False) -> Response:
        """GET /v1/models: the target, once for each route, and its aliases."""
        target = await self._generator.target(max_age_s=LISTED_FOR_S)
        names = self._names.listed(target)
        if anthropic:
            return json_response(model_list(names, self._started_s))
        return json_response({"object": "list", "data": [self._card(name, target) for name in names]})

    async def model(self, name: str, *, anthropic: bool = False) -> Response:
        """GET /v1/models/NAME."""
        is_local = self._names.route(name) is Route.LOCAL
        target = await self._generator.target(offline=is_local, max_age_s=LISTED_FOR_S)
        listed = self._names.listed_as(name, target)
        if anthropic:
            return json_response(model_entry(listed, self._started_s))
        return json_response(self._card(listed, target))

    async def health(self) -> Response:
        """GET /health: 200 also while degraded, because requests are still answered then."""
        return json_response(await self._generator.health())

    async def _respond(self, service: ChatService, body: bytes, options: SessionOptions) -> Response:
        decoded = decode_body(body)
        answer = await service.answer(decoded, options)
        if isinstance(answer, StreamedAnswer):
            return answer_stream(answer, self._timings.ping_s)
        return json_response(answer.body, headers=dict(answer.headers))

    def _card(self, name: str, target: TargetInfo) -> Json:
        is_local = name != target.model and self._names.route(name) is Route.LOCAL
        max_model_len = (target.draft_max_len if is_local else None) or target.max_model_len
        return model_card(name, max_model_len, self._started_s)
