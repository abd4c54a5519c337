"""What to do when the verifier is unreachable or overloaded: at start-up, before an answer, within one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from edge_agent.api import AWAY, BUSY, LOST, Fallback, GenerationRequest
from edge_agent.errors import TRANSIENT, CloudOverloaded, Transient
from edge_agent.verifier import RetryPolicy

__all__ = ["local_reason", "retry_policy", "unless_away", "without_verifier"]

T = TypeVar("T")
logger = logging.getLogger("pipesd.edge")

_AWAY_AT_START: Final = "the verifier is out of reach; until it is back the setting 'fallback' applies"


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
    """The verifier's answer to `asked` at the start; None if it is out of reach and need not be there.

    Raises what `asked` raises, but `CloudUnreachable` and `CloudOverloaded` only with `Fallback.ERROR`.
    """
    try:
        return await asked
    except TRANSIENT as error:
        if fallback is Fallback.ERROR:
            raise
        logger.warning("%s: %s", _AWAY_AT_START, error)
        return None


def without_verifier(request: GenerationRequest, committed: Sequence[int]) -> GenerationRequest:
    """The rest of `request` for the route `local`, after the tokens `committed` so far."""
    prompt = (*request.prompt_token_ids, *committed)
    return replace(request, prompt_token_ids=prompt, num_committed=len(committed))


def local_reason(lost: Transient, *, begun: bool) -> str:
    """Why the draft model answers alone after `lost`; `begun`: something was committed before."""
    return LOST if begun else BUSY if isinstance(lost, CloudOverloaded) else AWAY
