"""Estimates how likely drafts are right, by how many were. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

__all__ = ["CalibratedConfidence", "CheckedDraft", "Confidence", "RawConfidence"]

_LARGEST_LOGIT: Final = 6.0


class CheckedDraft(NamedTuple):
    """A draft whose position has been committed: its own probability, and whether the target agreed."""

    probability: float
    accepted: bool


class Confidence(Protocol):
    """From a draft's own probability to that of being right."""

    def estimate(self, probability: float) -> float:
        """In (0, 1]; never falls as `probability` rises."""
        ...

    def observe(self, checked: Iterable[CheckedDraft]) -> None:
        """Learn from drafts that the target has accepted or rejected."""
        ...


class RawConfidence:
    """The draft's own probability: what the thresholds of the literature are about, for greedy text."""

    def estimate(self, probability: float) -> float:
        return probability

    def observe(self, checked: Iterable[CheckedDraft]) -> None:
        """There is nothing to learn."""


class CalibratedConfidence:
    """A logistic curve through the logit of a draft's probability: `1 / (1 + exp(-(a * logit + b)))`.

    It begins as the probability itself (a = 1, b = 0) and follows the outcomes by an extended Kalman filter,
    whose `DRIFT` lets newer outcomes count more, so that a change of text or model shows.
    """

    PRIOR: Final = 0.5
    """Variance of a and b at the beginning."""
    DRIFT: Final = 1e-4
    """What each outcome adds to it."""

    def __init__(self) -> None:
        self._a, self._b = 1.0, 0.0
        self._aa, self._ab, self._bb = self.PRIOR, 0.0, self.PRIOR

    def estimate(self, probability: float) -> float:
        return _logistic(max(self._a, 0.0) * _logit(probability) + self._b)

    def observe(self, checked: Iterable[CheckedDraft]) -> None:
        for probability, accepted in checked:
            x = _logit(probability)
            expected = _logistic(self._a * x + self._b)
            along_a, along_b = self._aa * x + self._ab, self._ab * x + self._bb
            spread = expected * (1.0 - expected)
            gain = 1.0 / (1.0 + spread * (x * along_a + along_b))
            self._a += gain * along_a * (accepted - expected)
            self._b += gain * along_b * (accepted - expected)
            self._aa += self.DRIFT - gain * spread * along_a * along_a
            self._ab -= gain * spread * along_a * along_b
            self._bb += self.DRIFT - gain * spread * along_b * along_b


def _logit(probability: float) -> float:
    """Within +-`_LARGEST_LOGIT`; NaN counts as 0."""
    clipped = 0.0 if math.isnan(probability) else min(max(probability, 0.0), 1.0)
    if clipped in (0.0, 1.0):
        return math.copysign(_LARGEST_LOGIT, clipped - 0.5)
    return min(max(math.log(clipped / (1.0 - clipped)), -_LARGEST_LOGIT), _LARGEST_LOGIT)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(x, -30.0), 30.0)))
