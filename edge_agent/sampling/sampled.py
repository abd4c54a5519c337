"""Picking under request parameters: the token that the target is most likely to pick with the same noise."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.api import Sampling
from edge_agent.sampling.adjustment import LogitAdjuster
from edge_agent.sampling.coupling import noisy_scores
from edge_agent.sampling.greedy import most_likely
from edge_agent.sampling.picker import DraftToken, TokenMask
from edge_agent.sampling.restriction import least_kept

__all__ = ["SampledPicker"]

_LEAST_TEMPERATURE: Final = 0.01
"""vLLM raises anything between 0 and this."""


class SampledPicker:
    """A `TokenPicker` for one sequence whose first `prompt_length` tokens are its prompt.

    At a temperature above 0, `settings` must have a seed, and the probability of a pick says how likely
    the target's pick is the same: the softmax, at temperature 1, of the draft's logits with the noise in
    them. It becomes the greedy one as the temperature goes to 0.
    """

    def __init__(
        self,
        settings: Sampling,
        prompt_length: int,
        end_token_ids: Collection[int] = (),
        mask: TokenMask | None = None,
        *,
        fp64_noise: bool = False,
    ) -> None:
        """`end_token_ids` are those that end a text by themselves, `mask` rules further tokens out;
        `fp64_noise`: the target draws with that form of the noise."""
        assert settings.temperature == 0 or settings.seed is not None, "a temperature needs a seed"
        self._settings = settings
        self._prompt_length = prompt_length
        self._end_token_ids = end_token_ids
        self._mask = mask
        self._fp64_noise = fp64_noise
        self._adjuster: LogitAdjuster | None = None
        self._scores = np.empty(0, dtype=np.float32)
        self._scratch = np.empty(0, dtype=np.float32)

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        scores = self._copied(logits)
        if self._mask is not None:
            self._mask.apply(scores, tokens)
        self._adjusted(logits.size).apply(scores, tokens)
        best = float(scores.max())
        if best == -math.inf:  # everything is ruled out: whatever is drafted will be rejected
            return most_likely(logits, self._scratch)
        if self._settings.temperature == 0 or not math.isfinite(best):
            return most_likely(scores, self._scratch)
        return self._coupled(scores, len(tokens) - 1)

    def rewind(self, length: int) -> None:
        if self._mask is not None:
            self._mask.rewind(length)
        if self._adjuster is not None:
            self._adjuster.rewind(length)

    def _coupled(self, scores: NDArray[np.float32], position: int) -> DraftToken:
        """`position` is that of the last token, whose noise vLLM picks the next one with."""
        settings = self._settings
        assert settings.seed is not None
        temperature = max(settings.temperature, _LEAST_TEMPERATURE)
        scores *= np.float32(1.0 / temperature)
        least = least_kept(scores, min_p=settings.min_p, top_k=settings.top_k, top_p=settings.top_p)
        noisy = noisy_scores(scores, settings.seed, position, least, fp64=self._fp64_noise)
        lead = noisy.scores[noisy.best] - noisy.scores
        total = float(np.exp(-temperature * lead).sum())
        return DraftToken(int(noisy.tokens[noisy.best]), 1.0 / total)

    def _copied(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._scores.size != logits.size:
            self._scores, self._scratch = np.empty_like(logits), np.empty_like(logits)
        np.copyto(self._scores, logits)
        return self._scores

    def _adjusted(self, num_tokens: int) -> LogitAdjuster:
        if self._adjuster is None:
            self._adjuster = LogitAdjuster(
                self._settings, self._prompt_length, self._end_token_ids, num_tokens
            )
        return self._adjuster
