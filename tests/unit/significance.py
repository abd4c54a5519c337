"""p-values for tests of randomness; seeds are fixed, so such a test passes always or never."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def chi_square_p(observed: Sequence[float] | Any, expected: Sequence[float] | Any) -> float:
    """Pearson's test; both count the same total, cells expected below 5 are merged into one."""
    seen, hoped = np.asarray(observed, float).ravel(), np.asarray(expected, float).ravel()
    small = hoped < 5
    if small.any():
        seen = np.append(seen[~small], seen[small].sum())
        hoped = np.append(hoped[~small], hoped[small].sum())
    statistic = ((seen - hoped) ** 2 / hoped).sum()
    half_dof = torch.tensor((len(seen) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_dof, torch.tensor(statistic / 2, dtype=torch.float64)))


def kolmogorov_p(uniforms: Any) -> float:
    """Kolmogorov-Smirnov against the uniform distribution on (0, 1), asymptotic."""
    values = np.sort(np.asarray(uniforms, float).ravel())
    n = len(values)
    steps = np.arange(n + 1) / n
    distance = max((steps[1:] - values).max(), (values - steps[:-1]).max())
    x = distance * math.sqrt(n)
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)) if x > 0.2 else 1.0
