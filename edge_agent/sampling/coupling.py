"""The coupled pick: the argmax of noisy scores over the whole vocabulary, found among few tokens. Pure.

Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant speculative decoding" (2024),
section 3: whoever picks `argmax over v of log p(v) + g(v)` with the same Gumbel noise g often picks the
same token, and each pick is an exact sample of its own p. Additive constants do not matter, so logits over
the temperature stand for log p.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesd_vllm.wire.noise import QUIET_NOISE, gumbel, loud_tokens

__all__ = ["NoisyScores", "noisy_scores"]

_CLOSE: Final = 3.0
"""Tokens whose noisy score is within this of the best one are found, too."""
_FEW: Final = 4096
"""Up to so many tokens cost less than the search for those that matter."""


class NoisyScores(NamedTuple):
    """Tokens (int64) and their scores with noise (of its type), both `[num_found]`; `best` is an index."""

    tokens: NDArray[np.int64]
    scores: NDArray[Any]
    best: int


def noisy_scores(
    scores: NDArray[np.float32], seed: int, position: int, least: float = -math.inf, *, fp64: bool = False
) -> NoisyScores:
    """The best token under noise, and all others that come close. `scores` is `[num_tokens]`.

    `position` is that of the token before the pick (`pipesd_vllm/wire/noise.py`). Tokens that score below
    `least` without noise are out of the running. One score in the running must be finite, and none NaN.
    """
    restricts = least > -math.inf or scores.size <= _FEW
    tokens = np.flatnonzero(scores >= np.float32(least)) if restricts else None
    if tokens is None or tokens.size > _FEW:
        tokens = _likely_winners(scores, seed, position, np.float32(least), fp64=fp64)
    noisy = scores[tokens] + gumbel(seed, position, tokens, fp64=fp64)
    return NoisyScores(tokens, noisy, int(noisy.argmax()))


def _likely_winners(
    scores: NDArray[np.float32], seed: int, position: int, least: np.float32, *, fp64: bool
) -> NDArray[np.int64]:
    """The tokens that may win, in ascending order: those with loud noise, and those that need none."""
    found = loud_tokens(seed, position, scores.size, fp64=fp64)
    found &= scores >= least
    loud = np.flatnonzero(found)
    best = (scores[loud] + gumbel(seed, position, loud, fp64=fp64)).max(initial=-np.inf)
    found |= scores >= max(np.float32(best - QUIET_NOISE - _CLOSE), least)
    return np.flatnonzero(found)
