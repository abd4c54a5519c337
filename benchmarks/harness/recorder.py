"""Listens in between gateway and edge agent: which tokens came when, and at what cost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from edge_agent.api import GenerationChunk, GenerationRequest, GenerationStats, Generator

__all__ = ["Recording", "RecordingGenerator"]


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

    def take(self, request_id: str) -> Recording:
        """The recording of a generation, which is forgotten. The gateway's answer id is its request id."""
        return self._recordings.pop(request_id)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        recording = self._recordings[request.request_id] = Recording(self._clock())
        chunks = self._generator.generate(request)
        try:
            async for chunk in chunks:
                if chunk.token_ids:
                    recording.given_s.append(self._clock())
                recording.token_ids += chunk.token_ids
                recording.stats = chunk.stats
                yield chunk
        finally:
            if (close := getattr(chunks, "aclose", None)) is not None:
                await close()  # a reader that leaves early ends the generation now

    def __getattr__(self, name: str) -> Any:
        """All else is the generator's own."""
        return getattr(self._generator, name)
