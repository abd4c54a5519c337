"""Which source drafts next."""

from __future__ import annotations

import pytest

from edge_agent.control import EnvironmentSnapshot
from edge_agent.control.mixing import expected_length, takes_lookup


def costs(gamma_s: float | None, step_s: float | None = 0.015) -> EnvironmentSnapshot:
    return EnvironmentSnapshot(gamma_s=gamma_s, step_s=step_s)


def test_expected_length() -> None:
    assert expected_length([]) == 0.0
    assert expected_length([0.5, 0.5, 1.0]) == 0.5 + 0.25 + 0.25


@pytest.mark.parametrize(
    ("gamma_s", "taken"), [(0.0075, True), (0.043, True), (0.001, False), (None, True), (0.004, True)]
)
def test_a_slow_model_leaves_the_drafting_to_lookup(gamma_s: float | None, taken: bool) -> None:
    """A short run against a model that is right 8 times in 10: slower than half a step, or not known."""
    assert takes_lookup([0.8, 0.8, 0.8], costs(gamma_s), 0.8, 12) is taken


def test_a_fast_model_is_left_to_it_where_it_gets_further() -> None:
    assert takes_lookup([0.97] * 20, costs(0.001), 0.8, 12)
    assert not takes_lookup([0.7], costs(0.001), 0.8, 12)
    assert takes_lookup([0.7], costs(0.001, None), 0.8, 12), "nothing is known of the server"
