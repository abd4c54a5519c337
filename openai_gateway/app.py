"""The gateway's web application: which path does what."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from edge_agent.api import Generator
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
from openai_gateway.routing import OWN_NAMES, ByModel, Fleet, Listed, ModelNames, RoutedService
from openai_gateway.target import Forwarder, TargetAnswers
from openai_gateway.translation import (
    LEFT_OUT_HEADER,
    DocumentedApp,
    FleetPromptCounter,
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
    others: Mapping[str, Generator] | None = None,
    embeddings: Forwarder | None = None,
    timings: GatewayTimings | None = None,
    metrics: GatewayMetrics | None = None,
    observers: Sequence[RequestObserver] = (),
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """An ASGI application that serves OpenAI's API from `generator`, which the caller closes.

    `others` are the agents of further targets, by their servers' URLs: a request's model says which answers.

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
    fleet = Fleet({_FIRST: generator, **(others or {})}, names)
    gateway = Gateway(fleet, timings, clock, (metrics, *observers))
    app.include_router(metrics_router(metrics.registry), include_in_schema=False)
    app.include_router(web_router(), include_in_schema=False)
    app.include_router(_open_routes(gateway))
    guarded = [Depends(key_check(keys))]
    app.include_router(_api_routes(gateway), dependencies=guarded)
    ping_s = (timings or GatewayTimings()).ping_s
    counter, catalog = FleetPromptCounter(fleet), catalog_of(fleet)
    translated = protocols_router(gateway.chats, gateway.completions, counter, catalog, ping_s=ping_s)
    passed_on = (embeddings_router(fleet, embeddings), tokens_router(fleet), out_of_scope_router())
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
_FIRST: Final = "default"
"""Label of the first target."""


class Gateway:
    """The endpoints. Every failure is raised as `ApiError` or `EdgeError`."""

    def __init__(
        self,
        fleet: Fleet,
        timings: GatewayTimings | None = None,
        clock: Callable[[], float] = time.time,
        observers: Sequence[RequestObserver] = (),
    ) -> None:
        self._fleet = fleet
        self._timings = timings or GatewayTimings()
        self._started_s = int(clock())
        chats: dict[str, ChatService] = {}
        raw: dict[str, ChatService] = {}
        for member in fleet.members:
            generator = member.generator
            local = LocalAnswers(generator, self._timings, clock)
            by_target = TargetAnswers(generator, local, self._timings.first_chunk_s)
            chats[member.label] = RoutedService(CHAT, generator, local, by_target, member.names)
            raw[member.label] = RoutedService(COMPLETIONS, generator, local, by_target, member.names)
        self.chats: ChatService = ObservedService(ByModel(fleet, chats), "chat", observers)
        """The service that the translated chat APIs use."""
        self.completions: ChatService = ObservedService(ByModel(fleet, raw), "completions", observers)

    async def chat(self, body: bytes, options: SessionOptions = DEFAULT_OPTIONS) -> Response:
        """POST /v1/chat/completions."""
        return await self._respond(self.chats, body, options)

    async def complete(self, body: bytes, options: SessionOptions = DEFAULT_OPTIONS) -> Response:
        """POST /v1/completions."""
        return await self._respond(self.completions, body, options)

    async def models(self, *, anthropic: bool = False) -> Response:
        """GET /v1/models: each target, once for each route, and the aliases."""
        listed = await self._fleet.listed()
        if anthropic:
            return json_response(model_list([each.name for each in listed], self._started_s))
        return json_response({"object": "list", "data": [self._card(each) for each in listed]})

    async def model(self, name: str, *, anthropic: bool = False) -> Response:
        """GET /v1/models/NAME."""
        listed = await self._fleet.listed_as(name)
        if anthropic:
            return json_response(model_entry(listed.name, self._started_s))
        return json_response(self._card(listed))

    async def health(self) -> Response:
        """GET /health: 200 also while degraded, because requests are still answered then."""
        return json_response(await self._fleet.health())

    async def _respond(self, service: ChatService, body: bytes, options: SessionOptions) -> Response:
        decoded = decode_body(body)
        answer = await service.answer(decoded, options)
        if isinstance(answer, StreamedAnswer):
            return answer_stream(answer, self._timings.ping_s)
        return json_response(answer.body, headers=dict(answer.headers))

    def _card(self, listed: Listed) -> Json:
        return model_card(listed.name, listed.max_model_len, self._started_s)
