"""Estimates how likely drafts are right, by how many were; triggers of sampled text use it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

__all__ = ["CalibratedConfidence", "CheckedDraft", "Confidence", "RawConfidence"]


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
    """The draft's own probability: what the paper's thresholds are about, for greedy text."""

    def estimate(self, probability: float) -> float:
        return probability

    def observe(self, checked: Iterable[CheckedDraft]) -> None:
        """There is nothing to learn."""


class CalibratedConfidence:
    """Counts by bins of probability, made monotone by pooling neighbours that contradict it.

    The pooling is isotonic regression by the pool-adjacent-violators algorithm (Ayer et al. 1955). Each bin
    begins as if `PRIOR_COUNT` drafts had been right as often as they said; counts are halved whenever a
    bin holds `MAX_COUNT`, so that a change of text or model shows. Between the bins' middles the estimate
    is interpolated.
    """

    NUM_BINS: Final = 10
    PRIOR_COUNT: Final = 4.0
    MAX_COUNT: Final = 400.0

    def __init__(self) -> None:
        self._middles = [(i + 0.5) / self.NUM_BINS for i in range(self.NUM_BINS)]
        self._counts = [self.PRIOR_COUNT] * self.NUM_BINS
        self._right = [self.PRIOR_COUNT * middle for middle in self._middles]
        self._rates = list(self._middles)

    def estimate(self, probability: float) -> float:
        bin_position = _clipped(probability) * self.NUM_BINS - 0.5
        low = min(max(int(bin_position), 0), self.NUM_BINS - 2)
        share = min(max(bin_position - low, 0.0), 1.0)
        return self._rates[low] * (1.0 - share) + self._rates[low + 1] * share

    def observe(self, checked: Iterable[CheckedDraft]) -> None:
        for probability, accepted in checked:
            i = min(int(_clipped(probability) * self.NUM_BINS), self.NUM_BINS - 1)
            self._counts[i] += 1.0
            self._right[i] += accepted
            if self._counts[i] > self.MAX_COUNT:
                self._counts[i] /= 2
                self._right[i] /= 2
        self._rates = _monotone(self._right, self._counts)


def _clipped(probability: float) -> float:
    """Into [0, 1]; NaN counts as 0."""
    return 0.0 if math.isnan(probability) else min(max(probability, 0.0), 1.0)


def _monotone(right: list[float], counts: list[float]) -> list[float]:
    """The rates that never fall and fit `right` of `counts` best, by least squares."""
    pools: list[tuple[float, float, int]] = []
    for num_right, count in zip(right, counts, strict=True):
        pool = (num_right, count, 1)
        while pools and pools[-1][0] * pool[1] >= pool[0] * pools[-1][1]:
            previous = pools.pop()
            pool = (previous[0] + pool[0], previous[1] + pool[1], previous[2] + pool[2])
        pools.append(pool)
    return [num_right / count for num_right, count, num_bins in pools for _ in range(num_bins)]
