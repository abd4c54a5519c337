"""The search space."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.api import SessionMode
from edge_agent.control import PolicyParameters
from edge_agent.control.tuning.search import DIMENSIONS, PATIENCE, SearchSpace, dimensions_for

from .surface import BASE, SPACE

in_range = st.builds(
    PolicyParameters,
    sequence_threshold=st.integers(10, 990).map(lambda n: n / 1000),
    token_threshold=st.integers(10, 990).map(lambda n: n / 1000),
    max_ahead=st.integers(2, 32),
    patience_ms=st.integers(20, 2000),
    max_window=st.just(BASE.max_window),
)
anything = st.builds(
    PolicyParameters,
    sequence_threshold=st.floats(1e-6, 1 - 1e-6),
    token_threshold=st.floats(1e-6, 1 - 1e-6),
    max_ahead=st.integers(1, 1000),
    patience_ms=st.integers(1, 100_000),
    max_window=st.integers(1, 100),
)
points = st.tuples(*[st.floats(0, 1)] * len(DIMENSIONS))


@given(in_range)
def test_parameters_survive_the_way_to_the_cube_and_back(parameters: PolicyParameters) -> None:
    """Nothing in range is changed, so that a stored point is found again."""
    assert SPACE.from_unit(SPACE.to_unit(parameters)) == parameters


@given(points)
def test_every_point_gives_valid_parameters_close_to_it(point: tuple[float, ...]) -> None:
    """All values are in range and of the right type, and rounding moves a point by little."""
    parameters = SPACE.from_unit(point)
    assert type(parameters.max_ahead) is int
    assert type(parameters.patience_ms) is int
    for dimension, given_, back in zip(DIMENSIONS, point, SPACE.to_unit(parameters), strict=True):
        assert dimension.low <= getattr(parameters, dimension.name) <= dimension.high
        assert abs(given_ - back) < 0.09  # half of the step from 2 to 3 tokens ahead


@given(anything)
def test_what_is_out_of_range_is_moved_to_the_edge(parameters: PolicyParameters) -> None:
    """Any settings of a user give a point, and the nearest point is its own nearest point."""
    nearest = SPACE.nearest(parameters)
    assert all(0.0 <= x <= 1.0 for x in SPACE.to_unit(parameters))
    assert SPACE.nearest(nearest) == nearest
    assert nearest.max_window == BASE.max_window


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda d: d.name)
def test_the_ends_of_each_range_are_the_ends_of_the_cube(dimension) -> None:
    """0 and 1 are the limits, and coordinates grow with the value."""
    assert dimension.from_unit(0.0) == dimension.low
    assert dimension.from_unit(1.0) == dimension.high
    values = [dimension.from_unit(i / 10) for i in range(11)]
    assert values == sorted(values)


def test_scales_treat_like_alike() -> None:
    """Patience doubles in equal steps; thresholds close to 0 and to 1 are mirror images."""
    middle = SPACE.from_unit((0.5, 0.5, 0.5, 0.5))
    assert middle == dataclasses.replace(
        BASE, sequence_threshold=0.5, token_threshold=0.5, max_ahead=8, patience_ms=200
    )
    low, high = SPACE.from_unit((0.1, 0.1, 0, 0)), SPACE.from_unit((0.9, 0.9, 0, 0))
    assert low.sequence_threshold == pytest.approx(1 - high.sequence_threshold)


def test_only_what_acts_is_searched() -> None:
    """Patience where the server keeps to one, thresholds where nothing else asks for verification."""
    assert PATIENCE in dimensions_for(SessionMode.BALANCED)
    space = SearchSpace(BASE, dimensions_for(SessionMode.OFFLOAD))
    assert space.from_unit((0.0, 0.0, 0.0)).patience_ms == BASE.patience_ms
    assert not dimensions_for(SessionMode.AUTO)
    assert not dimensions_for(SessionMode.LATENCY)
