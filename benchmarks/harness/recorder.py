"""Listens in between gateway and edge agent: which tokens came when, and at what cost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge_agent.api import (
    AnswerEvent,
    AnswerHead,
    AskRequest,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Generator,
)

__all__ = ["Recording", "RecordingGenerator"]

_EventT = TypeVar("_EventT", bound=AnswerEvent)


@dataclass(slots=True)
class Recording:
    """One generation as the agent gave it. Times in seconds on the recorder's clock."""

    started_s: float = 0.0
    given_s: list[float] = field(default_factory=list)
    """When each chunk with tokens was given."""
    token_ids: list[int] = field(default_factory=list)
    stats: GenerationStats = field(default_factory=GenerationStats)


class RecordingGenerator:
    """A `Generator` that passes everything through and keeps a `Recording` of each generation.

    An OpenAI client learns of tokens and frames only what OpenAI's format has room for.
    """

    def __init__(self, generator: Generator, clock: Callable[[], float] = time.perf_counter) -> None:
        self._generator = generator
        self._clock = clock
        self._recordings: dict[str, Recording] = {}

    def take(self, answer_id: str) -> Recording:
        """The recording of a generation, by the gateway's answer id; it is forgotten."""
        return self._recordings.pop(answer_id)

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        return self._recorded(request.request_id, self._generator.generate(request))

    def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        prefix = "chatcmpl-" if "chat" in request.path else "cmpl-"  # as vLLM names its answers
        return self._recorded(prefix + request.request_id, self._generator.ask(request))

    async def _recorded(self, answer_id: str, events: AsyncIterator[_EventT]) -> AsyncIterator[_EventT]:
        recording = self._recordings[answer_id] = Recording(self._clock())
        try:
            async for event in events:
                if isinstance(event, GenerationChunk):
                    if event.token_ids:
                        recording.given_s.append(self._clock())
                    recording.token_ids += event.token_ids
                if isinstance(event, GenerationChunk | AnswerHead):
                    recording.stats = event.stats
                yield event
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()  # a reader that leaves early ends the generation now

    def __getattr__(self, name: str) -> Any:
        """All else is the generator's own."""
        return getattr(self._generator, name)
