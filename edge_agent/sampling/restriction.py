"""Restricting a distribution to its likely tokens: min-p, top-k, top-p, in vLLM's order. Pure."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["least_kept"]

_BLOCK: Final = 64
_LIKELY: Final = 1e-4
"""Tokens with less than this share of the nucleus are looked at only if those with more do not fill it."""


def least_kept(scores: NDArray[np.float32], *, min_p: float, top_k: int, top_p: float) -> float:
    """The least score that stays in the running; minus infinity if nothing is restricted.

    `scores` `[num_tokens]` are logits over the temperature. `min_p` 0, `top_k` 0 and `top_p` 1 restrict
    nothing. Tokens that tie with the last one kept are kept, too.
    """
    best = float(scores.max())
    least = -math.inf
    if min_p > 0.0:
        least = best + math.log(min_p)
    if 0 < top_k < scores.size:
        least = max(least, _kth_largest(scores, top_k))
    if top_p < 1.0:
        least = max(least, _nucleus(scores, best, least, top_p))
    return least


def _kth_largest(scores: NDArray[np.float32], k: int) -> float:
    """Few tokens are compared: the k-th largest of the blocks' maxima is no larger than the result."""
    num_blocks = scores.size // _BLOCK
    candidates = scores
    if num_blocks > k:
        maxima = scores[: num_blocks * _BLOCK].reshape(num_blocks, _BLOCK).max(axis=1)
        bound = np.partition(maxima, num_blocks - k)[num_blocks - k]
        candidates = scores[scores >= bound]
    return float(np.partition(candidates, candidates.size - k)[candidates.size - k])


def _nucleus(scores: NDArray[np.float32], best: float, least: float, top_p: float) -> float:
    """The least score of the fewest tokens that hold `top_p` of the mass at or above `least`."""
    kept = scores if least == -math.inf else scores[scores >= least]
    weights = np.exp(kept - np.float32(best))
    wanted = top_p * float(weights.sum())
    likely = weights[weights >= _LIKELY * wanted]
    if float(likely.sum()) < wanted:
        likely = weights
    likely = np.sort(likely)[::-1]
    before = np.cumsum(likely, dtype=np.float64) - likely
    # Rounding must not lose the most likely token, nor look for the logarithm of nothing.
    last = min(int(np.searchsorted(before, wanted)), int(np.count_nonzero(likely))) - 1
    return math.log(float(likely[max(0, last)])) + best - 1e-6
