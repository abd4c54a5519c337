"""Ratios of paired measurements, and how sure they are. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import exp, log
from statistics import mean
from typing import Final

__all__ = ["Interval", "ratio"]

_NUM_RESAMPLES: Final = 2000

Interval = tuple[float, float, float]
"""A ratio, and the ends of its interval."""


def ratio(ones: Sequence[float], others: Sequence[float], seed: int = 0) -> Interval:
    """The geometric mean of paired ratios, and its 90 % bootstrap interval."""
    logs = [log(one / other) for one, other in zip(ones, others, strict=True)]
    rng = random.Random(seed)
    means = sorted(mean(rng.choices(logs, k=len(logs))) for _ in range(_NUM_RESAMPLES))
    ends = means[_NUM_RESAMPLES // 20], means[-_NUM_RESAMPLES // 20]
    return exp(mean(logs)), exp(ends[0]), exp(ends[1])
