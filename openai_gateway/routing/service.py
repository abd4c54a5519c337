"""One endpoint's requests, each answered on the route that can. Implements `ChatService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic

from edge_agent.api import Generator, Route, TargetInfo
from openai_gateway.chat_service import Answer, Json, SessionOptions, WholeAnswer
from openai_gateway.errors import InvalidRequest
from openai_gateway.local import Endpoint, LocalAnswers, RequestT, parse_request
from openai_gateway.routing.infill import infill
from openai_gateway.routing.normaliser import normalise, sampling_used, within
from openai_gateway.routing.parameters import Requirements, requirements_of
from openai_gateway.routing.routes import OWN_NAMES, ModelNames, adapter_of, choose_route
from openai_gateway.target import TargetAnswers

__all__ = ["RoutedService"]


@dataclass(frozen=True, slots=True)
class Notes:
    """What an answer's `pipesd` object says of how the request was read."""

    sampling: Json
    ignored: tuple[str, ...]

    def added_to(self, answer: Answer) -> Answer:
        """`answer` with these notes where its statistics are."""
        if isinstance(answer, WholeAnswer):
            return replace(answer, body=self._noted(answer.body))
        return replace(answer, chunks=self._all_noted(answer.chunks))

    async def _all_noted(self, chunks: AsyncIterator[Json]) -> AsyncIterator[Json]:
        async for chunk in chunks:
            yield self._noted(chunk)

    def _noted(self, body: Json) -> Json:
        if "timings" not in body:
            return body
        stats = body["pipesd"]
        ignored = list(dict.fromkeys([*stats["ignored"], *self.ignored]))
        return {**body, "pipesd": {**stats, "ignored": ignored, "sampling": self.sampling}}


class RoutedService(Generic[RequestT]):
    """`ChatService` for chat, and the same for raw completions; `endpoint` is the difference."""

    def __init__(
        self,
        endpoint: Endpoint[RequestT],
        generator: Generator,
        local: LocalAnswers,
        target: TargetAnswers,
        names: ModelNames = OWN_NAMES,
    ) -> None:
        self._names = names
        self._endpoint = endpoint
        self._generator = generator
        self._local = local
        self._target = target

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """See `ChatService.answer`. What the target answers, its server checks."""
        endpoint = self._endpoint
        body = normalise(body, endpoint.path)
        if endpoint.path == "/v1/completions" and "suffix" in body:
            body = infill(body, await self._local.text())
        needs = requirements_of(body, endpoint.path)
        name = body.get("model")
        if not isinstance(name, str | None):
            raise InvalidRequest(
                "Invalid 'model': it should be a string.", param="model", code="invalid_value"
            )
        asked = self._names.route(name)
        target = await self._generator.target(offline=asked is Route.LOCAL)
        if asked is not Route.LOCAL and self._names.may_be_new(name, target):
            target = await self._generator.target(max_age_s=0.0)
        full = self._names.full(name, target)
        if full != target.model and (adapter := adapter_of(full, target)) is not None:
            target = replace(target, model=adapter)
            needs = replace(needs, server=(*needs.server, "model"))
        if full == target.model:
            asked = None  # a target may have such a name itself
        choice = choose_route(asked, needs, has_draft=target.has_draft)
        body = within(body, target)
        notes = Notes(sampling_used(body, target), needs.nobody)
        if choice.route is Route.LOCAL:
            request = parse_request(endpoint.request_type, body | notes.sampling)
            answer = await self._local.answer(endpoint, request, target, choice.reason, options)
        else:
            by_draft = self._by_draft(body | notes.sampling, needs, target)
            answer = await self._target.answer(endpoint, body, target, choice, options, by_draft)
        return notes.added_to(answer)

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
