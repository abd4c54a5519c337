"""Forms that hold for the answer alone, where a model thinks first: as vLLM does with a reasoning parser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.sampling.structure import GrammarMask

__all__ = ["AfterReasoning", "reasoning_has_ended"]


def reasoning_has_ended(prompt: Sequence[int], start: int | None, end: int) -> bool:
    """Whether a prompt leaves nothing to think about: its last mark is an end (vLLM's `is_reasoning_end`)."""
    return next((token == end for token in reversed(prompt) if token in (start, end)), False)


class AfterReasoning:
    """A `TokenMask`: `form` holds behind the first token `end` of the answer; what is before it is free.

    The sequence begins with `prompt_length` tokens of prompt. `form` must be new.
    """

    def __init__(self, form: GrammarMask, end: int, prompt_length: int) -> None:
        self._form = form
        self._end = end
        self._prompt_length = prompt_length
        self._num_searched = prompt_length
        self._begin: int | None = None

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        if self._has_begun(tokens):
            self._form.apply(scores, tokens)

    def holds(self, tokens: Sequence[int]) -> bool:
        """As `GrammarMask.holds`; thoughts have no form."""
        return not self._has_begun(tokens) or self._form.holds(tokens)

    def rewind(self, length: int) -> None:
        if self._begin is not None and length >= self._begin:
            self._form.rewind(length)
            return
        self._begin = None
        self._num_searched = max(self._prompt_length, min(self._num_searched, length))

    def _has_begun(self, tokens: Sequence[int]) -> bool:
        if self._begin is None:
            place = next((i for i in range(self._num_searched, len(tokens)) if tokens[i] == self._end), None)
            if place is None:
                self._num_searched = len(tokens)
                return False
            self._begin = place + 1
            self._form.restart(self._begin)
        return True
