"""Listens in between gateway and edge agent: what was asked, which tokens came, at what cost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from edge_agent.generation import FinishReason, GenerationChunk, GenerationRequest, GenerationStats, Generator
from edge_agent.passthrough import ForwardedAnswer
from edge_agent.target import TargetInfo, TokenizerBundle

__all__ = ["Recording", "RecordingGenerator"]


@dataclass(slots=True)
class Recording:
    """One generation as the agent gave it. Times in seconds on the recorder's clock."""

    request: GenerationRequest
    started_s: float = 0.0
    given_s: list[float] = field(default_factory=list)
    """When each chunk with tokens was given."""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
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

    async def target(self, *, offline: bool = False) -> TargetInfo:
        return await self._generator.target(offline=offline)

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        return await self._generator.tokenizer(offline=offline)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        recording = self._recordings[request.request_id] = Recording(request, self._clock())
        chunks = self._generator.generate(request)
        try:
            async for chunk in chunks:
                if chunk.token_ids:
                    recording.given_s.append(self._clock())
                recording.token_ids += chunk.token_ids
                recording.finish_reason = chunk.finish_reason
                recording.stats = chunk.stats
                yield chunk
        finally:
            if (close := getattr(chunks, "aclose", None)) is not None:
                await close()  # a reader that leaves early ends the generation now

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        return await self._generator.forward(path, body)

    async def health(self) -> dict[str, str]:
        return await self._generator.health()

    async def close(self) -> None:
        await self._generator.close()
