"""Where to measure next: the seam between tuner and search method, and the methods without a model. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.control.tuning.sobol import sobol_point
from edge_agent.control.tuning.space import Point

__all__ = ["Evaluation", "GridProposer", "Proposer", "RandomProposer", "SobolProposer", "Suggestion"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A measured point of the unit cube."""

    point: Point
    cost_ms: float
    num_tokens: int
    relative_error: float
    """Standard error of `cost_ms`, as a share of it."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An answer of a proposer; without a model it has no more than a point."""

    point: Point
    """Measure here to learn most."""
    best: Point | None = None
    """Where the least cost is expected, measured or not."""
    estimates: tuple[float, ...] | None = None
    """Cost in ms of each evaluation's point, in their order: what is expected plus one standard deviation, so
    that of two points which look alike the better known one is preferred."""


class Proposer(Protocol):
    """A search method as the tuner sees it. Neither blocks nor raises."""

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion | None:
        """Where to go after `evaluations`, oldest first, at least one. None: not known yet, ask again."""
        ...


class SobolProposer:
    """Fills the cube evenly, whatever was measured."""

    def __init__(self, num_dimensions: int, seed: int) -> None:
        self._num_dimensions = num_dimensions
        self._seed = seed

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """The next point of the sequence."""
        return Suggestion(sobol_point(len(evaluations), self._num_dimensions, self._seed))


class RandomProposer:
    """Uniform random search, for comparison."""

    def __init__(self, num_dimensions: int, seed: int) -> None:
        self._num_dimensions = num_dimensions
        self._random = random.Random(seed)

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """A random point."""
        return Suggestion(tuple(self._random.random() for _ in range(self._num_dimensions)))


class GridProposer:
    """Search of a full grid of at least `num_points`, in random order, for comparison.

    PipeSD compares with a grid over R1 and R2, the first two coordinates; the others stay at `centre`.
    """

    def __init__(self, num_points: int, centre: Point, seed: int, num_grid_dimensions: int = 2) -> None:
        num_levels = math.ceil(num_points ** (1.0 / num_grid_dimensions) - 1e-9)
        levels = [(i + 0.5) / num_levels for i in range(num_levels)]
        self._points = [
            (*coordinates, *centre[num_grid_dimensions:])
            for coordinates in itertools.product(levels, repeat=num_grid_dimensions)
        ]
        random.Random(seed).shuffle(self._points)
        self._num_asked = 0

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """The next point of the grid; starts again after the last."""
        point = self._points[self._num_asked % len(self._points)]
        self._num_asked += 1
        return Suggestion(point)
