"""One endpoint's requests, each answered on the route that can. Implements `ChatService`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Generic

from edge_agent.api import Generator, Route, TargetInfo
from openai_gateway.chat_service import Answer, SessionOptions
from openai_gateway.errors import InvalidRequest
from openai_gateway.local import Endpoint, LocalAnswers, RequestT, parse_request
from openai_gateway.routing.parameters import Requirements, requirements_of
from openai_gateway.routing.routes import asked_route, check_model, choose_route
from openai_gateway.target import TargetAnswers

__all__ = ["RoutedService"]


class RoutedService(Generic[RequestT]):
    """`ChatService` for chat, and the same for raw completions; `endpoint` is the difference."""

    def __init__(
        self,
        endpoint: Endpoint[RequestT],
        generator: Generator,
        local: LocalAnswers,
        target: TargetAnswers,
    ) -> None:
        self._endpoint = endpoint
        self._generator = generator
        self._local = local
        self._target = target

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """See `ChatService.answer`. What the target answers, its server checks."""
        endpoint = self._endpoint
        body = {**endpoint.normalise(body), "stream": bool(body.get("stream"))}
        needs = requirements_of(body)
        name = body.get("model")
        if not isinstance(name, str | None):
            raise InvalidRequest(
                "Invalid 'model': it should be a string.", param="model", code="invalid_value"
            )
        asked = asked_route(name)
        target = await self._generator.target(offline=asked is Route.LOCAL)
        if name == target.model:
            asked = None  # a target may have such a name itself
        check_model(name, target)
        choice = choose_route(asked, needs, has_draft=target.has_draft)
        if choice.route is Route.LOCAL:
            request = parse_request(endpoint.request_type, body)
            return await self._local.answer(endpoint, request, target, choice.reason, options)
        by_draft = self._by_draft(body, needs, target)
        return await self._target.answer(endpoint, body, target, choice, options, by_draft)

    def _by_draft(self, body: Mapping[str, Any], needs: Requirements, target: TargetInfo) -> RequestT | None:
        """The request as the draft model can answer it in the target's place; None if it cannot."""
        if needs.server:
            return None
        with suppress(InvalidRequest):
            request = parse_request(self._endpoint.request_type, body)
            parses = target.reasoning_parser is not None and target.reasoning_marks is None
            if not (self._endpoint.splits_reasoning and parses and request.may_think):
                return request
        return None
