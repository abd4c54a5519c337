"""The `local` route: the draft model alone, sampling as the target would. No connection, no verification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection

from edge_agent.api import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Route,
    Sampling,
    Source,
)
from edge_agent.drafting import Drafted, DraftEvent, DraftingStopped, DraftWorker
from edge_agent.errors import ModelError
from edge_agent.sampling.pickers import Choice

__all__ = ["generate_locally"]


async def generate_locally(
    request: GenerationRequest,
    worker: DraftWorker,
    choice: Choice,
    eos_token_ids: Collection[int],
    stats: GenerationStats,
    clock: Callable[[], float],
) -> AsyncGenerator[GenerationChunk, None]:
    """Yield the draft model's own tokens, as `choice` picks them; `stats` so far are carried on.

    Raises `DraftCapacityError` if the prompt does not fit, `ModelError` if the model fails.
    """
    sampling = request.sampling
    stats.route, stats.ignored = Route.LOCAL, (*choice.ignored, *_ignored(sampling))
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_token_ids)}
    events: asyncio.Queue[DraftEvent] = asyncio.Queue()
    limit = request.prompt_length + sampling.max_tokens
    handle = await worker.open(request.prompt_token_ids, limit, events.put_nowait, choice.picker)
    num_left = sampling.max_tokens - request.num_committed
    try:
        while num_left > 0:
            event = await events.get()
            if isinstance(event, DraftingStopped):
                if event.failed:
                    raise ModelError(f"the draft model failed: {event.reason}")
                break
            if not isinstance(event, Drafted):
                continue
            token = event.draft.token_id
            num_left -= 1
            _count(stats, clock())
            reason = FinishReason.STOP if token in stops else None if num_left else FinishReason.LENGTH
            yield GenerationChunk((token,), reason, stats, (Source.UNVERIFIED,))
            if reason is not None:
                return
        yield GenerationChunk((), FinishReason.LENGTH, stats)
    finally:
        handle.close()


def _ignored(sampling: Sampling) -> tuple[str, ...]:
    """What drafting does not follow: the target's view is not there to report."""
    return () if sampling.logprobs is None else ("logprobs",)


def _count(stats: GenerationStats, now_s: float) -> None:
    stats.completion_tokens += 1
    stats.unverified_tokens += 1
    stats.last_token_s = now_s
    if stats.first_token_s is None:
        stats.first_token_s = now_s
