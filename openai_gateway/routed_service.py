"""One endpoint's requests, each on the route that can answer it. Implements `ChatService`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_agent.api import Generator, Route, TargetInfo
from edge_agent.errors import CloudUnreachable
from openai_gateway.chat_service import StreamedAnswer, WholeAnswer
from openai_gateway.local.answers import GeneratedAnswers
from openai_gateway.local.endpoints import Endpoint
from openai_gateway.local.schema import GenerationFields, parse_request
from openai_gateway.routing.options import SessionOptions
from openai_gateway.routing.parameters import needs_of
from openai_gateway.routing.routes import BY_DEFAULT, RouteChoice, asked_route, check_model, choose_route
from openai_gateway.target.answers import CloudAnswers

__all__ = ["RoutedService"]


@dataclass(frozen=True, slots=True)
class _Plan:
    request: GenerationFields
    target: TargetInfo
    choice: RouteChoice

    def without_cloud(self) -> _Plan:
        """For a server whose own API is out of reach, but not needed."""
        return replace(self, choice=RouteChoice(Route.COLLABORATIVE, BY_DEFAULT))


class RoutedService:
    """`ChatService` for chat, and the same for raw completions; `endpoint` is the difference."""

    def __init__(
        self, endpoint: Endpoint, generator: Generator, generated: GeneratedAnswers, cloud: CloudAnswers
    ) -> None:
        self._endpoint = endpoint
        self._generator = generator
        self._generated = generated
        self._cloud = cloud

    async def whole(self, body: Mapping[str, Any], options: SessionOptions) -> WholeAnswer:
        """See `ChatService.whole`."""
        body = self._endpoint.own_words(body)
        plan = await self._plan(_as_streamed(body, stream=False))
        if plan.choice.route is Route.CLOUD:
            try:
                return await self._cloud.whole(self._endpoint, body, plan.target, plan.choice)
            except CloudUnreachable:
                if plan.choice.is_needed:
                    raise
                plan = plan.without_cloud()
        return await self._generated.whole(self._endpoint, plan.request, plan.target, plan.choice, options)

    async def stream(self, body: Mapping[str, Any], options: SessionOptions) -> StreamedAnswer:
        """See `ChatService.stream`."""
        body = self._endpoint.own_words(body)
        plan = await self._plan(_as_streamed(body, stream=True))
        if plan.choice.route is Route.CLOUD:
            try:
                return await self._cloud.stream(self._endpoint, body, plan.target, plan.choice)
            except CloudUnreachable:
                if plan.choice.is_needed:
                    raise
                plan = plan.without_cloud()
        return await self._generated.stream(self._endpoint, plan.request, plan.target, plan.choice, options)

    async def _plan(self, body: Mapping[str, Any]) -> _Plan:
        """Everything that can be wrong with the request is found here or by the server. Raises `ApiError`."""
        needs = needs_of(body, adds_special_tokens=self._endpoint.adds_special_tokens)
        request = self._parse(body, needs.cloud)
        asked = asked_route(request.model)
        target = await self._generator.target(offline=asked is Route.LOCAL)
        if request.model == target.model:
            asked = None  # a target may be called so
        check_model(request.model, target)
        parses = target.reasoning_parser is not None and target.reasoning_marks is None
        splits = self._endpoint.splits_reasoning and parses and request.may_think
        choice = choose_route(asked, needs.cloud, needs.target, splits_reasoning=splits)
        return _Plan(request, target, choice)

    def _parse(self, body: Mapping[str, Any], causes: tuple[str, ...]) -> GenerationFields:
        if self._endpoint.prompt_param in causes:
            return parse_request(GenerationFields, body)  # what else a prompt may be, the server knows
        return self._endpoint.parse(body)


def _as_streamed(body: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The caller decides whether to stream, whatever the body says."""
    return {**body, "stream": stream}
