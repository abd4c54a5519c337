"""What to do when the verifier is unreachable or overloaded: at start-up, before an answer, within one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeVar

from edge_agent.api import Fallback, GenerationChunk, GenerationRequest, GenerationStats
from edge_agent.errors import TRANSIENT, CloudOverloaded, DraftCapacityError
from edge_agent.verifier.retry import RetryPolicy

__all__ = ["AWAY", "BUSY", "LOST", "local_after_loss", "retry_policy", "unless_away"]

T = TypeVar("T")
logger = logging.getLogger("pipesd.edge")

AWAY = "verifier out of reach"
BUSY = "verifier overloaded"
LOST = "verifier lost in mid-answer"
"""Reasons of the route `local`."""
_AWAY_AT_START: Final = "the verifier is out of reach; until it is back the setting 'fallback' applies"

Locally = Callable[[GenerationRequest, GenerationStats], AsyncGenerator[GenerationChunk, None]]


def retry_policy(fallback: Fallback, *, reached: bool, begun: bool) -> RetryPolicy:
    """How long an answer tries to get a connection before `fallback` applies.

    Before it has `reached` the verifier: a second, so that one lost handshake costs nothing and no answer is
    held up where nothing listens. With `ERROR` an overloaded server is waited for only if the answer has
    `begun`: before that the client can try again itself.
    """
    if fallback is Fallback.WAIT:
        return RetryPolicy(max_retries=None, overloaded_within_s=None)
    policy = RetryPolicy() if reached else RetryPolicy(within_s=1.0)
    return replace(policy, overloaded_within_s=0.0) if fallback is Fallback.ERROR and not begun else policy


async def unless_away(asked: Awaitable[T], fallback: Fallback) -> T | None:
    """What the verifier was asked for at the start; None if it is out of reach and need not be there.

    Raises what `asked` raises, but `CloudUnreachable` and `CloudOverloaded` only with `Fallback.ERROR`.
    """
    try:
        return await asked
    except TRANSIENT as error:
        if fallback is Fallback.ERROR:
            raise
        logger.warning("%s: %s", _AWAY_AT_START, error)
        return None


async def local_after_loss(
    request: GenerationRequest,
    collaborate: AsyncGenerator[GenerationChunk, None],
    stats: GenerationStats,
    locally: Locally,
) -> AsyncGenerator[GenerationChunk, None]:
    """What `collaborate` gives, and if the verifier is lost or overloaded, the rest from `locally`.

    `stats` are those of the generation; `locally` goes on from the committed tokens with them. Raises
    what `collaborate` raises, but `CloudUnreachable` and `CloudOverloaded` only if the draft model cannot
    take the prompt.
    """
    committed: list[int] = []
    try:
        async with aclosing(collaborate) as chunks:
            async for chunk in chunks:
                committed += chunk.token_ids
                yield chunk
            return
    except TRANSIENT as error:
        lost = error
    logger.warning("the draft model answers alone: %s", lost)
    stats.route_reason = LOST if committed else BUSY if isinstance(lost, CloudOverloaded) else AWAY
    prompt = (*request.prompt_token_ids, *committed)
    rest = replace(request, prompt_token_ids=prompt, num_committed=len(committed))
    try:
        async with aclosing(locally(rest, stats)) as chunks:
            async for chunk in chunks:
                yield chunk
    except DraftCapacityError:
        raise lost from None
