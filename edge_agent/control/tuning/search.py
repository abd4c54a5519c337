"""The tuner's search space, and the search methods that need no model. Pure."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edge_agent.api import SessionMode
from edge_agent.control.policies.base import PolicyParameters

__all__ = [
    "CONFIDENCE_MARGIN",
    "DIMENSIONS",
    "MAX_AHEAD",
    "MAX_DIMENSIONS",
    "PAPER_THRESHOLDS",
    "PATIENCE",
    "SEQUENCE_THRESHOLD",
    "TOKEN_THRESHOLD",
    "Dimension",
    "Evaluation",
    "GridProposer",
    "Point",
    "Proposer",
    "RandomProposer",
    "Scale",
    "SearchSpace",
    "SobolProposer",
    "Suggestion",
    "dimensions_for",
    "sobol_point",
]

Point = tuple[float, ...]
"""A point of the unit cube: one coordinate in [0, 1] per dimension."""

PAPER_THRESHOLDS: Final = (0.9, 0.35)
"""R1 and R2 near which PipeSD was found to settle on code."""


class Scale(enum.Enum):
    """The transform under which steps of a dimension are equally large."""

    LOGIT = "logit"
    """For probabilities: 0.98 to 0.99 is as far as 0.01 to 0.02."""
    LOG = "log"
    """For counts and times: a doubling is a doubling."""

    def forward(self, value: float) -> float:
        """From the natural scale; strictly increasing."""
        return math.log(value / (1.0 - value)) if self is Scale.LOGIT else math.log(value)

    def inverse(self, value: float) -> float:
        """Back to the natural scale."""
        return 1.0 / (1.0 + math.exp(-value)) if self is Scale.LOGIT else math.exp(value)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One parameter that is searched, from `low` to `high`, both included."""

    name: str
    """A field of `PolicyParameters`."""
    low: float
    high: float
    scale: Scale
    num_decimals: int
    """Values are rounded to so many; 0 makes them integers. Two points that round alike are one."""

    def to_unit(self, value: float) -> float:
        """Coordinate of `value`, which is moved into the range first."""
        low, high = self.scale.forward(self.low), self.scale.forward(self.high)
        return (self.scale.forward(min(max(value, self.low), self.high)) - low) / (high - low)

    def from_unit(self, coordinate: float) -> float | int:
        """Rounded value in the range; inverse of `to_unit` on rounded values."""
        low, high = self.scale.forward(self.low), self.scale.forward(self.high)
        value = self.scale.inverse(low + min(max(coordinate, 0.0), 1.0) * (high - low))
        value = min(max(round(value, self.num_decimals), self.low), self.high)
        return value if self.num_decimals else int(value)


SEQUENCE_THRESHOLD: Final = Dimension("sequence_threshold", 0.01, 0.99, Scale.LOGIT, 3)
TOKEN_THRESHOLD: Final = Dimension("token_threshold", 0.01, 0.99, Scale.LOGIT, 3)
MAX_AHEAD: Final = Dimension("max_ahead", 2, 32, Scale.LOG, 0)
PATIENCE: Final = Dimension("patience_ms", 20, 2000, Scale.LOG, 0)
CONFIDENCE_MARGIN: Final = Dimension("confidence_margin", 0.25, 4.0, Scale.LOG, 2)
DIMENSIONS: Final = (SEQUENCE_THRESHOLD, TOKEN_THRESHOLD, MAX_AHEAD, PATIENCE)


def dimensions_for(mode: SessionMode) -> tuple[Dimension, ...]:
    """The dimensions that act in `mode`; none in those whose arms are chosen (`control/modes.py`)."""
    match mode:
        case SessionMode.OFFLOAD:
            return SEQUENCE_THRESHOLD, TOKEN_THRESHOLD, MAX_AHEAD
        case SessionMode.BALANCED:
            return CONFIDENCE_MARGIN, MAX_AHEAD, PATIENCE
        case _:
            return ()


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The box that is searched; what is not searched stays as in `base`."""

    base: PolicyParameters
    dimensions: tuple[Dimension, ...] = DIMENSIONS

    def to_unit(self, parameters: PolicyParameters) -> Point:
        """Coordinates of `parameters`; what lies outside the box is moved to its edge."""
        return tuple(d.to_unit(getattr(parameters, d.name)) for d in self.dimensions)

    def from_unit(self, point: Sequence[float]) -> PolicyParameters:
        """Parameters at `point`, rounded. `point` has one coordinate per dimension."""
        values = {d.name: d.from_unit(x) for d, x in zip(self.dimensions, point, strict=True)}
        return dataclasses.replace(self.base, **values)  # type: ignore[arg-type]

    def nearest(self, parameters: PolicyParameters) -> PolicyParameters:
        """The point of this space closest to `parameters`; takes what is not searched from `base`."""
        return self.from_unit(self.to_unit(parameters))

    def with_thresholds(self, sequence: float, token: float) -> PolicyParameters:
        """`base` with other thresholds, within the space."""
        changed = dataclasses.replace(self.base, sequence_threshold=sequence, token_threshold=token)
        return self.nearest(changed)


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
    """Fills the cube evenly and ignores the measurements: the points of the Sobol sequence."""

    def __init__(self, num_dimensions: int, seed: int) -> None:
        self._num_dimensions = num_dimensions
        self._seed = seed

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """The next point of the sequence."""
        return Suggestion(sobol_point(len(evaluations), self._num_dimensions, self._seed))


class RandomProposer:
    """Uniform random search; benchmarks compare with it."""

    def __init__(self, num_dimensions: int, seed: int) -> None:
        self._num_dimensions = num_dimensions
        self._random = random.Random(seed)

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """A random point."""
        return Suggestion(tuple(self._random.random() for _ in range(self._num_dimensions)))


class GridProposer:
    """Search of a full grid of at least `num_points`, in random order; benchmarks compare with it.

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


def sobol_point(index: int, num_dimensions: int, seed: int | None = None) -> Point:
    """Point `index` of the sequence in [0, 1)^`num_dimensions`, shifted by `seed` (None: as it is)."""
    gray = index ^ (index >> 1)
    shifts = random.Random(seed)
    point = []
    for directions in _DIRECTIONS[:num_dimensions]:
        bits = 0 if seed is None else shifts.getrandbits(_NUM_BITS)
        for k, direction in enumerate(directions):
            if gray >> k & 1:
                bits ^= direction
        point.append(bits / (1 << _NUM_BITS))
    return tuple(point)


def _directions(coefficients: int, first: tuple[int, ...]) -> tuple[int, ...]:
    numbers, degree = list(first), len(first)
    for k in range(degree, _NUM_BITS):
        new = numbers[k - degree] ^ (numbers[k - degree] << degree)
        for i in range(1, degree):
            if coefficients >> (degree - 1 - i) & 1:
                new ^= numbers[k - i] << i
        numbers.append(new)
    return tuple(number << (_NUM_BITS - 1 - k) for k, number in enumerate(numbers))


_NUM_BITS: Final = 30
_POLYNOMIALS: Final = (
    (0, (1,) * _NUM_BITS),  # the van der Corput sequence
    (0, (1,)),
    (1, (1, 3)),
    (1, (1, 3, 1)),
    (2, (1, 1, 1)),
    (1, (1, 1, 3, 3)),
)
"""Per dimension: the primitive polynomial's inner coefficients and the first direction numbers."""
MAX_DIMENSIONS: Final = len(_POLYNOMIALS)
_DIRECTIONS: Final = tuple(_directions(*polynomial) for polynomial in _POLYNOMIALS)
