"""Agreement of a draft with the target's text, on models made of rules."""

from collections.abc import Sequence

from benchmarks.pairs.agreement import agreement_rate, greedy_text, trace_of
from edge_agent.drafter import DraftToken
from edge_agent.fake_drafter import FakeDrafter

VOCABULARY = [str(i) for i in range(10)]


def counting(tokens: Sequence[int]) -> DraftToken:
    return DraftToken((tokens[-1] + 1) % 10, 0.9)


def counting_badly(tokens: Sequence[int]) -> DraftToken:
    """Wrong after every 4."""
    return DraftToken(0, 0.2) if tokens[-1] == 4 else counting(tokens)


def test_text_and_agreement() -> None:
    """The draft is asked at each position of the target's own text, not of its own."""
    text = greedy_text(FakeDrafter(counting, VOCABULARY), [0], 20)
    assert text == [(1 + i) % 10 for i in range(20)]
    points = list(trace_of(FakeDrafter(counting_badly, VOCABULARY), [0], text))
    assert [i for i, point in enumerate(points) if not point.agrees] == [4, 14]
    assert agreement_rate(points) == 0.9
    assert points[4].probability == 0.2
