"""Sobol points without a library."""

import pytest

from edge_agent.control.tuning.search import MAX_DIMENSIONS, sobol_point


def test_points_are_those_of_scipy() -> None:
    """The first 64 unshifted points are the reference implementation's."""
    qmc = pytest.importorskip("scipy.stats.qmc")
    expected = qmc.Sobol(MAX_DIMENSIONS, scramble=False).random(64)
    points = [sobol_point(i, MAX_DIMENSIONS) for i in range(64)]
    assert points == [pytest.approx(tuple(row)) for row in expected]


def test_each_seed_shifts_and_keeps_the_balance() -> None:
    """Of the first 16 points, every sixteenth of every axis holds exactly one, whatever the seed."""
    for seed in range(5):
        points = [sobol_point(i, 4, seed) for i in range(16)]
        for axis in range(4):
            assert sorted(int(point[axis] * 16) for point in points) == list(range(16))
    assert sobol_point(3, 4, 0) != sobol_point(3, 4, 1)
    assert sobol_point(3, 4, 0) == sobol_point(3, 4, 0)
