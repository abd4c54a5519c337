"""How often a draft would have chosen the target's next token, greedily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.drafting.drafter import Drafter
from edge_agent.sampling.picker import DraftToken

__all__ = ["TracePoint", "agreement_rate", "greedy_text", "trace_of"]


@dataclass(frozen=True, slots=True)
class TracePoint:
    """One position of the target's text: did the draft agree, and how sure was it of its own token?"""

    agrees: bool
    probability: float


def greedy_text(model: Drafter, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The model's own continuation, at most as long as there is room."""
    sequence = model.open(prompt)
    try:
        return [_next(model, sequence).token_id for _ in range(min(num_tokens, model.room(sequence)))]
    finally:
        model.close_sequence(sequence)


def trace_of(draft: Drafter, prompt: Sequence[int], text: Sequence[int]) -> Iterator[TracePoint]:
    """The draft's choice at each position of `text`, given the prompt and the text before it."""
    sequence = draft.open(prompt)
    try:
        for number, token_id in enumerate(text):
            chosen = _next(draft, sequence)
            agrees = chosen.token_id == token_id
            if not agrees:
                draft.rewrite(sequence, len(prompt) + number, [token_id])
            yield TracePoint(agrees, chosen.probability)
    finally:
        draft.close_sequence(sequence)


def agreement_rate(points: Sequence[TracePoint]) -> float:
    """Share of positions where the draft agreed, of at least one."""
    return sum(point.agrees for point in points) / len(points)


def _next(model: Drafter, sequence: int) -> DraftToken:
    while True:  # a long prompt is evaluated in several calls
        drafts = model.draft([sequence])
        if sequence in drafts:
            return drafts[sequence]
