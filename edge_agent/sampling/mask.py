"""What rules tokens out by the text before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Masks", "TokenMask"]


class TokenMask(Protocol):
    """Rules tokens out by what came before them; `rewind` as for `TokenPicker`."""

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        """Set the scores of tokens that must not follow `tokens` to minus infinity, in place."""
        ...

    def rewind(self, length: int) -> None: ...


class Masks:
    """Several masks as one."""

    def __init__(self, masks: Sequence[TokenMask]) -> None:
        self._masks = masks

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        for mask in self._masks:
            mask.apply(scores, tokens)

    def rewind(self, length: int) -> None:
        for mask in self._masks:
            mask.rewind(length)
