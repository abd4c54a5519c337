"""What a sequence has generated, counted by token, for the penalties. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenHistory"]


class TokenHistory:
    """One sequence over a vocabulary of `num_tokens`; its first `prompt_length` tokens are the prompt."""

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
