"""Adjusts logits by request parameters, before the temperature, in vLLM's order. Pure.

The order is that of Model Runner V2 (vLLM 0.32, `v1/worker/gpu/sample/`: `logit_bias.py`, `penalties.py`):
allowed tokens, biases, the least length, then repetition, frequency and presence penalties.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.api import Sampling

__all__ = ["LogitAdjuster", "TokenHistory", "adjusts_logits"]

_LEAST_PENALTY: Final = np.finfo(np.float32).tiny
"""Less would become 0 in float32, and minus infinity times 0 is not a number."""
_LARGEST: Final = np.float32(1e36)
"""A logit that stays finite over any temperature."""


def adjusts_logits(settings: Sampling) -> bool:
    """Whether any parameter changes logits."""
    return bool(
        settings.allowed_token_ids or settings.min_tokens or settings.logit_bias or _has_penalties(settings)
    )


def _has_penalties(settings: Sampling) -> bool:
    additive = settings.presence_penalty or settings.frequency_penalty
    return bool(additive) or settings.repetition_penalty != 1.0


class LogitAdjuster:
    """One sequence's adjustments over `num_tokens` tokens. Ids that the draft does not have are left out.

    `end_token_ids` are those that end a text by themselves.
    """

    def __init__(
        self,
        settings: Sampling,
        prompt_length: int,
        end_token_ids: Collection[int],
        num_tokens: int,
    ) -> None:
        self._settings = settings
        self._first_end = prompt_length + settings.min_tokens
        """The least position at which the text may end."""
        self._ends = _known((*end_token_ids, *settings.stop_token_ids), num_tokens)
        self._allowed = _known(settings.allowed_token_ids, num_tokens)
        biases = [(token, bias) for token, bias in settings.logit_bias.items() if token < num_tokens]
        self._biased = np.array([token for token, _ in biases], dtype=np.int64)
        self._biases = np.array([bias for _, bias in biases], dtype=np.float32)
        self._history = TokenHistory(prompt_length, num_tokens) if _has_penalties(settings) else None

    def rewind(self, length: int) -> None:
        """Only the first `length` tokens of the sequence still hold."""
        if self._history is not None:
            self._history.rewind(length)

    def apply(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> None:
        """Adjust the logits of what follows `tokens` in place."""
        if self._allowed.size:
            allowed = logits[self._allowed]
            logits.fill(-np.inf)
            logits[self._allowed] = allowed
        if self._biased.size:
            logits[self._biased] += self._biases
        if len(tokens) < self._first_end:
            logits[self._ends] = -np.inf
        if self._history is not None:
            self._history.follow(tokens)
            self._penalise(logits, self._history)

    def _penalise(self, logits: NDArray[np.float32], history: TokenHistory) -> None:
        settings = self._settings
        if settings.repetition_penalty != 1.0:
            seen = history.seen()
            logits[seen] = _repeated(logits[seen], settings.repetition_penalty)
        if settings.frequency_penalty or settings.presence_penalty:
            generated, counts = history.generated()
            penalties = settings.frequency_penalty * counts + settings.presence_penalty
            logits[generated] -= penalties.astype(np.float32)


class TokenHistory:
    """What one sequence has generated, counted by token, for the penalties: over `num_tokens` tokens.

    The first `prompt_length` tokens of the sequence are the prompt.
    """

    def __init__(self, prompt_length: int, num_tokens: int) -> None:
        self._prompt_length = prompt_length
        self._generated: list[int] = []
        self._counts = np.zeros(num_tokens, dtype=np.int32)
        self._is_generated = np.zeros(num_tokens, dtype=np.bool_)
        self._is_seen = np.zeros(num_tokens, dtype=np.bool_)
        self._in_prompt: frozenset[int] | None = None

    def follow(self, tokens: Sequence[int]) -> None:
        """Count what has been added to the sequence; `tokens` is all of it."""
        if self._in_prompt is None:
            self._in_prompt = frozenset(tokens[: self._prompt_length])
            self._is_seen[list(self._in_prompt)] = True
        new = tokens[self._prompt_length + len(self._generated) :]
        self._generated += new
        for token in new:
            self._counts[token] += 1
            self._is_generated[token] = self._is_seen[token] = True

    def rewind(self, length: int) -> None:
        """Forget what lies beyond the first `length` tokens of the sequence."""
        keep = max(0, length - self._prompt_length)
        for token in self._generated[keep:]:
            self._counts[token] -= 1
            left = self._counts[token] > 0
            self._is_generated[token] = left
            self._is_seen[token] = left or token in (self._in_prompt or ())
        del self._generated[keep:]

    def generated(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The different tokens generated and how often each was: two arrays of one length."""
        tokens = np.flatnonzero(self._is_generated)
        return tokens, self._counts[tokens]

    def seen(self) -> NDArray[np.int64]:
        """The different tokens of prompt and text."""
        return np.flatnonzero(self._is_seen)


def _repeated(logits: NDArray[np.float32], penalty: float) -> NDArray[np.float32]:
    """What a repetition penalty makes of `logits`; none becomes infinite by it, however small it is."""
    divisor = max(np.float32(penalty), _LEAST_PENALTY)
    with np.errstate(over="ignore"):
        penalised: NDArray[np.float32] = np.where(logits > 0, logits / divisor, logits * divisor)
    return penalised.clip(max=_LARGEST)


def _known(token_ids: Collection[int], num_tokens: int) -> NDArray[np.int64]:
    return np.array(sorted({token for token in token_ids if token < num_tokens}), dtype=np.int64)
