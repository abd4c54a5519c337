"""Comparing two continuations."""

import pytest

from benchmarks.differences import Continuation, Difference, first_difference, near_tie_nats
from edge_agent.generation import FinishReason


def continuation(*token_ids: int, text: str = "", reason: FinishReason = FinishReason.LENGTH) -> Continuation:
    return Continuation(token_ids, text, reason)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (continuation(1, 2, 3), None),
        (continuation(1, 9, 3), Difference(1, 2, 9)),
        (continuation(1, 2), Difference(2, 3, None)),
        (continuation(1, 2, 3, 4), Difference(3, None, 4)),
        (continuation(1, 2, 3, text="other"), Difference(3, None, None)),
        (continuation(1, 2, 3, reason=FinishReason.STOP), Difference(3, None, None)),
    ],
)
def test_first_difference(ours: Continuation, expected: Difference | None) -> None:
    """The first token that differs, else what is left: length, text, finish reason."""
    assert first_difference(continuation(1, 2, 3), ours) == expected


def test_coarse_numbers_have_wider_ties() -> None:
    """A bfloat16 logit moves in steps of up to 0.125, which a server may have chosen by itself."""
    assert near_tie_nats("bfloat16") == near_tie_nats(None) == near_tie_nats("auto") == 0.25
    assert near_tie_nats("float32") < 0.001
