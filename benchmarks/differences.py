"""Two continuations of one prompt compared, and a difference explained. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_agent.generation import FinishReason

__all__ = ["Continuation", "Difference", "first_difference", "near_tie_nats"]

_NEAR_TIE_NATS: Final = 5e-4
"""In float32 logits of differently shaped batches differ by some 1e-5; this leaves room for large models."""
_NEAR_TIE_BFLOAT16_NATS: Final = 0.25
"""Two steps: a bfloat16 logit between 16 and 32 moves in steps of 0.125."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What was generated after a prompt."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The first one. `position` counts generated tokens from 0.

    A token is None where that side had ended; both are None (and `position` is the common length)
    when the tokens agree but the text or the finish reason does not.
    """

    position: int
    plain_token: int | None
    our_token: int | None


def first_difference(plain: Continuation, ours: Continuation) -> Difference | None:
    """None if tokens, text and finish reason are the same."""
    if plain == ours:
        return None
    longest = max(len(plain.token_ids), len(ours.token_ids))
    for position in range(longest):
        tokens = _at(plain.token_ids, position), _at(ours.token_ids, position)
        if tokens[0] != tokens[1]:
            return Difference(position, *tokens)
    return Difference(longest, None, None)


def near_tie_nats(dtype: str | None) -> float:
    """The gap below which rounding may turn a choice round, for a target that computes in `dtype`.

    None: the server's choice, which may be bfloat16.
    """
    return _NEAR_TIE_NATS if dtype == "float32" else _NEAR_TIE_BFLOAT16_NATS


def _at(token_ids: tuple[int, ...], position: int) -> int | None:
    return token_ids[position] if position < len(token_ids) else None
