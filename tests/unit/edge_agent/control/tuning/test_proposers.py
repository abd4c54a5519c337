"""The search methods without a model."""

from edge_agent.control.tuning.search import Evaluation, GridProposer, RandomProposer, SobolProposer

CENTRE = (0.1, 0.2, 0.3, 0.4)


def test_a_grid_visits_each_point_once_then_starts_again() -> None:
    """For 9 points: 3 x 3 in the first two coordinates, cell centres, the rest as given."""
    grid = GridProposer(9, CENTRE, seed=0)
    points = [grid.suggest([]).point for _ in range(9)]
    levels = (1 / 6, 3 / 6, 5 / 6)
    assert {p[:2] for p in points} == {(a, b) for a in levels for b in levels}
    assert {p[2:] for p in points} == {CENTRE[2:]}
    assert grid.suggest([]).point == points[0]


def test_a_grid_has_at_least_the_points_asked_for() -> None:
    """Ten points need a 4 x 4 grid, of which a random part is visited."""
    grid = GridProposer(10, CENTRE, seed=0)
    assert len({grid.suggest([]).point for _ in range(16)}) == 16


def test_random_points_are_reproducible_and_in_the_cube() -> None:
    """The seed alone decides."""
    first, second = RandomProposer(4, 1), RandomProposer(4, 1)
    points = [first.suggest([]).point for _ in range(50)]
    assert points == [second.suggest([]).point for _ in range(50)]
    assert all(0 <= x < 1 for p in points for x in p)


def test_sobol_goes_on_where_the_evaluations_end() -> None:
    """It keeps no count of its own: after a restart of the process it does not repeat itself."""
    seen = [Evaluation(CENTRE, 1.0, 64, 0.1)]
    assert SobolProposer(4, 0).suggest(seen) == SobolProposer(4, 0).suggest(seen)
    assert SobolProposer(4, 0).suggest(seen) != SobolProposer(4, 0).suggest(seen * 2)
