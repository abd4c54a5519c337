"""Noticing that what was tuned for has changed."""

import pytest

from edge_agent.control.tuning.tuner import DriftSettings, DriftWatch


def drifted_at(costs: list[float], baseline_ms: float | None = 100.0) -> list[int]:
    watch = DriftWatch(DriftSettings(), baseline_ms)
    return [i for i, cost in enumerate(costs) if watch.add(cost)]


def test_three_windows_off_to_the_same_side_are_drift() -> None:
    """More than 20 % up, or down: a faster link has another optimum, too."""
    assert drifted_at([121.0] * 3) == [2]
    assert drifted_at([79.0] * 3) == [2]


@pytest.mark.parametrize(
    "costs",
    [[119.0] * 20, [121.0, 121.0, 100.0] * 5, [130.0, 70.0] * 10],
    ids=["small", "interrupted", "both sides"],
)
def test_noise_is_no_drift(costs: list[float]) -> None:
    """Small changes, short ones and those to alternating sides are borne."""
    assert drifted_at(costs) == []


def test_without_a_baseline_the_first_windows_make_one() -> None:
    """The mean of three; only what comes later is compared with it."""
    watch = DriftWatch(DriftSettings())
    assert [watch.add(cost) for cost in (90.0, 100.0, 110.0)] == [False] * 3
    assert watch.baseline_ms == pytest.approx(100.0)
    assert [watch.add(130.0) for _ in range(3)] == [False, False, True]
