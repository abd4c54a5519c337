"""The coupled pick: the argmax of noisy scores over the whole vocabulary, found among few tokens. Pure.

Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant speculative decoding" (2024),
section 3: whoever picks `argmax over v of log p(v) + g(v)` with the same Gumbel noise g often picks the
same token, and each pick is an exact sample of its own p. Additive constants do not matter, so logits over
the temperature stand for log p.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.sampling.noise import MAX_NOISE_UNLESS_LEADING, gumbel, leading_bytes

__all__ = ["NoisyScores", "noisy_scores"]

_CLOSE = 3.0
"""Tokens whose noisy score is within this of the best one are found, too."""


class NoisyScores(NamedTuple):
    """Tokens (int64) and their scores with noise (float64), both `[num_candidates]`; `best` is an index."""

    tokens: NDArray[np.int64]
    scores: NDArray[np.float64]
    best: int


def noisy_scores(
    scores: NDArray[np.float32], seed: int, position: int, least: float = -math.inf
) -> NoisyScores:
    """The best token under noise, and all others that come close. `scores` is `[num_tokens]`.

    Tokens that score below `least` without noise are out of the running.

    Noise above `MAX_NOISE_UNLESS_LEADING` is found by a token's leading byte alone, so that the full
    noise is computed for one token in 256 and for those whose score is high enough without it. One
    score in the running must be finite, and none NaN.
    """
    leading = np.flatnonzero(leading_bytes(seed, position, scores.size) == 0)
    leading = leading[scores[leading] >= least]
    leading_noisy = scores[leading] + gumbel(seed, position, leading)
    enough = leading_noisy.max(initial=-np.inf) - MAX_NOISE_UNLESS_LEADING - _CLOSE
    bound = max(enough, np.nextafter(np.float32(least), np.float32(-np.inf)))
    likely = np.flatnonzero(scores > np.float32(bound))
    likely_noisy = scores[likely] + gumbel(seed, position, likely)
    # A token of both lists is only listed once: its twin would look like a rival.
    kept = scores[leading] <= np.float32(bound)
    tokens = np.concatenate((likely, leading[kept]))
    noisy = np.concatenate((likely_noisy, leading_noisy[kept]))
    return NoisyScores(tokens, noisy, int(noisy.argmax()))
