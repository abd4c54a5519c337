"""The server's work on the edge's clock."""

from __future__ import annotations

import pytest

from edge_agent.tracing import Committed
from edge_agent.tracing.analysis.replay import Answer
from edge_agent.tracing.analysis.timeline import place_passes, round_trip_s


def answer(
    t: float,
    *,
    asked_s: float | None = None,
    num_verified: int = 1,
    passes: int = 1,
    queue_ms: float = 0.0,
    step_ms: float = 20.0,
) -> Answer:
    event = Committed(1, t, 0, [1], passes, num_verified, 0, queue_ms, step_ms, 30)
    return Answer(event, 0, (1,), (None,), (), asked_s)


def test_the_round_trip_is_the_least_sample() -> None:
    """Queue and step are taken off; a frame that was held up does not count."""
    answers = [
        answer(1.100, asked_s=1.0, queue_ms=30.0),
        answer(2.090, asked_s=2.0),
        answer(3.001),
    ]
    assert round_trip_s(answers) == pytest.approx(0.050)


def test_the_opening_is_a_sample_too() -> None:
    """When the server is busy at every trigger, the first answer may be what comes closest."""
    opening = answer(0.050, asked_s=0.0, num_verified=0)
    assert round_trip_s([opening, answer(1.090, asked_s=1.0)]) == pytest.approx(0.030)


@pytest.mark.parametrize("answers", [[], [answer(1.0)], [answer(1.010, asked_s=1.0)]])
def test_without_a_sample_the_round_trip_is_zero(answers: list[Answer]) -> None:
    """No answer, no known request, or clocks that contradict each other: never negative."""
    assert round_trip_s(answers) == 0.0


def test_a_burst_of_frames_comes_from_passes_side_by_side() -> None:
    """Frames that arrive at once left one after the other: the passes end as late as they can."""
    placed = place_passes([answer(1.0), answer(1.0), answer(1.005)], 0.010)
    times = [(one.start_s, one.end_s) for one in placed]
    assert times == [
        (pytest.approx(0.940), pytest.approx(0.960)),
        (pytest.approx(0.960), pytest.approx(0.980)),
        (pytest.approx(0.980), pytest.approx(1.000)),
    ]


def test_a_commit_without_a_pass_has_none() -> None:
    """The last frame of a turn may carry a finish reason alone."""
    assert place_passes([answer(1.0, passes=0)], 0.0) == []


def test_waiting_begins_after_the_pass_before() -> None:
    """The queue is drawn up to the pass it ends with, never over another one."""
    first, second = place_passes([answer(1.0), answer(1.030, queue_ms=50.0)], 0.0)
    assert (first.queued_s, first.start_s) == (first.start_s, pytest.approx(0.980))
    assert (second.queued_s, second.start_s) == (pytest.approx(1.0), pytest.approx(1.010))
