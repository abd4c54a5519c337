"""Greedy picking: the most likely token. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ModelError
from edge_agent.sampling.picker import DraftToken

__all__ = ["GreedyPicker", "most_likely"]


class GreedyPicker:
    """A `TokenPicker` without parameters. Sequences of one thread may share it."""

    def __init__(self) -> None:
        self._scratch = np.empty(0, dtype=np.float32)

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        if self._scratch.size != logits.size:
            self._scratch = np.empty_like(logits)
        return most_likely(logits, self._scratch)

    def rewind(self, length: int) -> None:
        """Nothing depends on what came before."""


def most_likely(logits: NDArray[np.float32], scratch: NDArray[np.float32]) -> DraftToken:
    """The argmax of `logits` and its softmax probability at temperature 1.

    Both are `[num_tokens]` float32; `scratch` is overwritten. Raises `ModelError` if the
    logits are not numbers.
    """
    token_id = int(logits.argmax())
    np.subtract(logits, logits[token_id], out=scratch)
    np.exp(scratch, out=scratch)
    total = float(scratch.sum())
    if not total >= 1.0:
        raise ModelError("the draft model computed NaN: its file is damaged, download it again")
    return DraftToken(token_id, 1.0 / total)
