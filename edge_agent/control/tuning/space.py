"""The tuner's search space: policy parameters to and from the unit cube. Pure."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge_agent.control.policies.base import PolicyParameters
from pipesd_vllm.wire import Mode

__all__ = [
    "DIMENSIONS",
    "MAX_AHEAD",
    "PAPER_THRESHOLDS",
    "PATIENCE",
    "SEQUENCE_THRESHOLD",
    "TOKEN_THRESHOLD",
    "Dimension",
    "Point",
    "Scale",
    "SearchSpace",
    "dimensions_for",
]

Point = tuple[float, ...]
"""A point of the unit cube: one coordinate in [0, 1] per dimension."""

PAPER_THRESHOLDS: Final = (0.9, 0.35)
"""R1 and R2 near which PipeSD was found to settle on code."""


class Scale(enum.Enum):
    """Along which transform equal steps count as equally large."""

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
DIMENSIONS: Final = (SEQUENCE_THRESHOLD, TOKEN_THRESHOLD, MAX_AHEAD, PATIENCE)


def dimensions_for(mode: Mode) -> tuple[Dimension, ...]:
    """What is worth searching in `mode`: the server keeps to the patience in `balanced` alone."""
    return DIMENSIONS if mode is Mode.BALANCED else DIMENSIONS[:-1]


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
