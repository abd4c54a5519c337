"""Robust running estimates over the last samples, cheap to feed, computed when read. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean, median
from typing import Final

__all__ = [
    "Line",
    "LineEstimator",
    "RollingMedian",
    "RollingRatio",
    "RoundTripEstimator",
    "TrimmedMean",
    "fit_line",
]

_OUTLIER_DEVIATIONS: Final = 4.0
_SIGMA_PER_MAD: Final = 1.4826
_CLOCK_RESOLUTION_S: Final = 1e-6
_SIGNIFICANT_ERRORS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Line:
    """`intercept_s + slope_s * size`, neither negative; times in seconds."""

    intercept_s: float
    slope_s: float


def fit_line(samples: Sequence[tuple[int, float]]) -> Line | None:
    """Least squares through `(size, seconds)` samples without the outliers; None if all sizes are equal.

    Outliers are what lies 4 robust deviations (MAD) off a first line, whose slope is the median over
    n/2 disjoint pairs (Theil's abbreviated method): up to a quarter of the samples may be gross.
    A slope within two standard errors of zero is noise and becomes 0.
    """
    slope = _median_slope(sorted(samples, key=itemgetter(0)))
    if slope is None:
        return None
    residuals = [y - slope * x for x, y in samples]
    centre = median(residuals)
    spread = median([abs(r - centre) for r in residuals])
    bound = max(_OUTLIER_DEVIATIONS * _SIGMA_PER_MAD * spread, _CLOCK_RESOLUTION_S)
    kept = [s for s, r in zip(samples, residuals, strict=True) if abs(r - centre) <= bound]
    return _least_squares(kept)


def _median_slope(ordered: Sequence[tuple[int, float]]) -> float | None:
    half = len(ordered) // 2
    pairs = zip(ordered, ordered[len(ordered) - half :], strict=False)
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x1 != x2]
    return median(slopes) if slopes else None


def _least_squares(samples: Sequence[tuple[int, float]]) -> Line | None:
    mean_x = fmean([x for x, _ in samples])
    mean_y = fmean([y for _, y in samples])
    sum_xx = sum([(x - mean_x) ** 2 for x, _ in samples])
    if sum_xx == 0.0:
        return None
    slope = sum([(x - mean_x) * (y - mean_y) for x, y in samples]) / sum_xx
    error_sum = sum([(y - mean_y - slope * (x - mean_x)) ** 2 for x, y in samples])
    slope_error = math.sqrt(error_sum / max(1, len(samples) - 2) / sum_xx)
    if slope <= _SIGNIFICANT_ERRORS * slope_error:
        return Line(max(0.0, mean_y), 0.0)
    intercept = mean_y - slope * mean_x
    if intercept < 0.0:
        return Line(0.0, sum([x * y for x, y in samples]) / sum([x * x for x, _ in samples]))
    return Line(intercept, slope)


class LineEstimator:
    """`fit_line` over the last samples, made again when as many new ones have come as it was made from.

    The first fit needs `first_fit` samples (the probes); the window grows to `size` samples.
    """

    def __init__(self, first_fit: int = 8, size: int = 100) -> None:
        self.line: Line | None = None
        self.samples: deque[tuple[int, float]] = deque(maxlen=size)
        self._num_missing = first_fit

    def add(self, size: int, elapsed_s: float) -> bool:
        """Take a sample; True when the line was fitted again. A fit that is not possible changes nothing."""
        self.samples.append((size, elapsed_s))
        self._num_missing -= 1
        if self._num_missing > 0:
            return False
        line = fit_line(self.samples)
        self._num_missing = len(self.samples)
        self.line = line or self.line
        return line is not None


class TrimmedMean:
    """Mean over the last `size` values without the highest and lowest `trim` share of them."""

    def __init__(self, size: int = 100, trim: float = 0.1) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._trim = trim
        self._mean: float | None = None

    def add(self, value: float) -> None:
        self._values.append(value)
        self._mean = None

    @property
    def value(self) -> float | None:
        """None before the first value."""
        if self._mean is None and self._values:
            cut = int(len(self._values) * self._trim)
            self._mean = fmean(sorted(self._values)[cut : len(self._values) - cut])
        return self._mean


class RollingMedian:
    """Median over the last `size` values."""

    def __init__(self, size: int = 31) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._median: float | None = None

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        self._values.append(value)
        self._median = None

    @property
    def value(self) -> float | None:
        """None before the first value."""
        if self._median is None and self._values:
            self._median = median(self._values)
        return self._median


class RollingRatio:
    """Sum over sum of the last `size` pairs."""

    def __init__(self, size: int = 64) -> None:
        self._pairs: deque[tuple[float, float]] = deque(maxlen=size)

    def add(self, numerator: float, denominator: float) -> None:
        self._pairs.append((numerator, denominator))

    @property
    def sums(self) -> tuple[float, float]:
        """Of numerators and denominators."""
        return sum([above for above, _ in self._pairs]), sum([below for _, below in self._pairs])

    @property
    def value(self) -> float | None:
        """None before there is anything to divide by."""
        above, below = self.sums
        return above / below if below else None


class RoundTripEstimator:
    """Smoothed round trip and deviation as in RFC 6298, section 2; least of the last `size`. Seconds."""

    def __init__(self, size: int = 100) -> None:
        self.smoothed_s: float | None = None
        self.deviation_s: float | None = None
        self._recent: deque[float] = deque(maxlen=size)

    @property
    def min_s(self) -> float | None:
        return min(self._recent, default=None)

    def add(self, elapsed_s: float) -> None:
        self._recent.append(elapsed_s)
        if self.smoothed_s is None or self.deviation_s is None:
            self.smoothed_s, self.deviation_s = elapsed_s, elapsed_s / 2
            return
        self.deviation_s += (abs(self.smoothed_s - elapsed_s) - self.deviation_s) / 4
        self.smoothed_s += (elapsed_s - self.smoothed_s) / 8
