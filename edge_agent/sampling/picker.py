"""The seam between drafter and sampling: pickers, what they pick, and masks that rule tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.api import Source

__all__ = ["DraftToken", "TokenMask", "TokenPicker"]


@dataclass(frozen=True, slots=True)
class DraftToken:
    """One drafted token and its source's own probability of it, in (0, 1].

    At a temperature above 0 it is a measure of how likely the target's pick is the same
    (`edge_agent/sampling/sampled.py`).
    """

    token_id: int
    probability: float
    source: Source = Source.DRAFTED


class TokenPicker(Protocol):
    """Picks the next tokens of one sequence. Used by the drafter's thread alone."""

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        """The token after `tokens`, the whole sequence; `logits` `[num_tokens]` are not changed.

        From one call to the next `tokens` only grows, except after `rewind`. Raises `ModelError`
        if the logits are not numbers.
        """
        ...

    def rewind(self, length: int) -> None:
        """Only the first `length` tokens of the sequence still hold."""
        ...


class TokenMask(Protocol):
    """Rules tokens out by what came before them; `rewind` as for `TokenPicker`."""

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        """Set the scores of tokens that must not follow `tokens` to minus infinity, in place."""
        ...

    def rewind(self, length: int) -> None: ...
