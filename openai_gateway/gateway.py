"""OpenAI's endpoints: from a request's body to a response, on top of the services."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from fastapi import Response

from edge_agent.api import Generator, Route
from edge_agent.target import TargetInfo
from openai_gateway.chat_service import ChatService
from openai_gateway.http.requests import json_response
from openai_gateway.http.streaming import answer_stream
from openai_gateway.local.answers import GatewayTimings, GeneratedAnswers
from openai_gateway.local.endpoints import CHAT, COMPLETIONS
from openai_gateway.local.schema import decode_body
from openai_gateway.local.shapes import Json, model_card
from openai_gateway.observe.requests import RequestObserver
from openai_gateway.observe.service import ObservedService
from openai_gateway.routed_service import RoutedService
from openai_gateway.routing.options import SessionOptions
from openai_gateway.routing.routes import asked_route, check_model, full_name, served_names
from openai_gateway.target.answers import CloudAnswers
from openai_gateway.translation.fitting import FittingService

__all__ = ["Gateway", "GatewayTimings"]

DEFAULT_OPTIONS: Final = SessionOptions()


class Gateway:
    """The endpoints. Every failure is raised as `ApiError` or `EdgeError`."""

    def __init__(
        self,
        generator: Generator,
        timings: GatewayTimings | None = None,
        clock: Callable[[], float] = time.time,
        observers: Sequence[RequestObserver] = (),
    ) -> None:
        self._generator = generator
        self._timings = timings or GatewayTimings()
        self._started_s = int(clock())
        generated = GeneratedAnswers(generator, self._timings, clock)
        cloud = CloudAnswers(generator, self._timings.first_chunk_s)
        chats = RoutedService(CHAT, generator, generated, cloud)
        self.chats: ChatService = ObservedService(chats, "chat", observers)
        """What other chat APIs are built on."""
        self.fitting_chats: ChatService = ObservedService(FittingService(chats), "chat", observers)
        """The same for APIs that take any limit in tokens."""
        self._completions: ChatService = ObservedService(
            RoutedService(COMPLETIONS, generator, generated, cloud), "completions", observers
        )

    async def chat(self, body: bytes, options: SessionOptions = DEFAULT_OPTIONS) -> Response:
        """POST /v1/chat/completions."""
        return await self._respond(self.chats, body, options)

    async def complete(self, body: bytes, options: SessionOptions = DEFAULT_OPTIONS) -> Response:
        """POST /v1/completions."""
        return await self._respond(self._completions, body, options)

    async def models(self) -> Response:
        """GET /v1/models: the target, once for each route."""
        target = await self._generator.target()
        cards = [self._card(name, target) for name in served_names(target.model)]
        return json_response({"object": "list", "data": cards})

    async def model(self, name: str) -> Response:
        """GET /v1/models/NAME."""
        target = await self._generator.target(offline=asked_route(name) is Route.LOCAL)
        check_model(name, target)
        return json_response(self._card(full_name(name, target), target))

    async def health(self) -> Response:
        """GET /health: 200 also while degraded, because requests are still answered then."""
        return json_response(await self._generator.health())

    async def _respond(self, service: ChatService, body: bytes, options: SessionOptions) -> Response:
        decoded = decode_body(body)
        if decoded.get("stream"):
            return answer_stream(await service.stream(decoded, options), self._timings.ping_s)
        answer = await service.whole(decoded, options)
        return json_response(answer.body, headers=dict(answer.headers))

    def _card(self, name: str, target: TargetInfo) -> Json:
        is_local = name != target.model and asked_route(name) is Route.LOCAL
        max_model_len = (target.draft_max_len if is_local else None) or target.max_model_len
        return model_card(name, max_model_len, self._started_s)
