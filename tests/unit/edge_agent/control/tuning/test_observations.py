"""What was measured, and how it compares."""

import dataclasses

import pytest

from edge_agent.control.tuning.search import DIMENSIONS, SearchSpace
from edge_agent.control.tuning.tuner import Observation, mean_costs, move_into, ranked

from .surface import BASE, OPTIMUM


def seen(parameters, cost_ms: float, num_tokens: int = 64) -> Observation:
    return Observation(parameters, cost_ms, num_tokens, 0.1)


def test_observations_of_a_point_are_averaged() -> None:
    """Each counts by its tokens."""
    costs = mean_costs([seen(BASE, 10.0, 64), seen(OPTIMUM, 30.0), seen(BASE, 20.0, 192)])
    assert costs == {BASE: pytest.approx(17.5), OPTIMUM: 30.0}


def test_one_lucky_sample_does_not_win() -> None:
    """A point measured well twice is better than one that was lucky once and is bad on average."""
    lucky = [seen(OPTIMUM, 10.0), seen(OPTIMUM, 40.0), seen(BASE, 20.0), seen(BASE, 20.0)]
    assert ranked(lucky) == [BASE, OPTIMUM]


def test_a_model_overrules_the_samples() -> None:
    """With estimates, the order is theirs."""
    assert ranked([seen(OPTIMUM, 10.0), seen(BASE, 20.0)], [25.0, 22.0]) == [BASE, OPTIMUM]


def test_old_observations_fit_a_changed_space() -> None:
    """What is not tuned any more takes its value from the settings of today."""
    today = dataclasses.replace(BASE, patience_ms=50, max_window=4)
    (moved,) = move_into(SearchSpace(today, DIMENSIONS[:3]), [seen(OPTIMUM, 10.0)])
    assert moved.parameters == dataclasses.replace(OPTIMUM, patience_ms=50, max_window=4)
