"""Intervals of paired measurements. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["paired_interval"]

_RESAMPLES: Final = 2000
_INTERVAL: Final = (2.5, 97.5)


def paired_interval(over: Sequence[float], under: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of `sum(over) / sum(under)`, both resampled together; always the same one."""
    a, b = np.array(over), np.array(under)
    chosen = np.random.default_rng(0).integers(len(a), size=(_RESAMPLES, len(a)))
    low, high = np.percentile(a[chosen].sum(axis=1) / b[chosen].sum(axis=1), _INTERVAL)
    return float(low), float(high)
