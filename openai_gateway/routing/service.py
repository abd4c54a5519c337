"""One endpoint's requests, each answered on the route that can. Implements `ChatService`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from edge_agent.api import Generator, Route, TargetInfo
from edge_agent.errors import CloudUnreachable
from openai_gateway.chat_service import Answer, RouteChoice, SessionOptions
from openai_gateway.local import Endpoint, GeneratedAnswers, OpaquePromptRequest, RequestT, parse_request
from openai_gateway.routing.parameters import requirements_of
from openai_gateway.routing.routes import BY_DEFAULT, asked_route, check_model, choose_route
from openai_gateway.target import CloudAnswers

__all__ = ["RoutedService"]


@dataclass(frozen=True, slots=True)
class _Plan(Generic[RequestT]):
    request: RequestT | OpaquePromptRequest
    target: TargetInfo
    choice: RouteChoice


class RoutedService(Generic[RequestT]):
    """`ChatService` for chat, and the same for raw completions; `endpoint` is the difference."""

    def __init__(
        self,
        endpoint: Endpoint[RequestT],
        generator: Generator,
        generated: GeneratedAnswers,
        cloud: CloudAnswers,
    ) -> None:
        self._endpoint = endpoint
        self._generator = generator
        self._generated = generated
        self._cloud = cloud

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """See `ChatService.answer`."""
        body = {**self._endpoint.normalise(body), "stream": bool(body.get("stream"))}
        plan = await self._plan(body)
        request, choice = plan.request, plan.choice
        if isinstance(request, OpaquePromptRequest):
            return await self._cloud.answer(self._endpoint.path, body, plan.target, choice)
        if choice.route is Route.CLOUD:
            try:
                return await self._cloud.answer(self._endpoint.path, body, plan.target, choice)
            except CloudUnreachable:
                if choice.is_needed:
                    raise
            choice = RouteChoice(Route.COLLABORATIVE, BY_DEFAULT)
        return await self._generated.answer(self._endpoint, request, plan.target, choice, options)

    async def _plan(self, body: Mapping[str, Any]) -> _Plan[RequestT]:
        """Check the request and choose its route; only the server can refuse it later. Raises `ApiError`."""
        needs = requirements_of(body, adds_special_tokens=self._endpoint.adds_special_tokens)
        request: RequestT | OpaquePromptRequest
        if self._endpoint.prompt_param in needs.cloud:
            request = parse_request(OpaquePromptRequest, body)
        else:
            request = parse_request(self._endpoint.request_type, body)
        asked = asked_route(request.model)
        target = await self._generator.target(offline=asked is Route.LOCAL)
        if request.model == target.model:
            asked = None  # a target may have such a name itself
        check_model(request.model, target)
        parses = target.reasoning_parser is not None and target.reasoning_marks is None
        splits = self._endpoint.splits_reasoning and parses and request.may_think
        choice = choose_route(
            asked, needs.cloud, needs.target, splits_reasoning=splits, has_draft=target.has_draft
        )
        return _Plan(request, target, choice)
