"""A picker whose failure ends its own sequence's drafts and nobody else's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.drafting.drafter import DraftToken, TokenPicker
from edge_agent.errors import EdgeError

__all__ = ["ContainedPicker"]

logger = logging.getLogger("pipesd.draft")

_STAND_IN: Final = DraftToken(0, 1.0)


class ContainedPicker:
    """A `TokenPicker` that never raises: what `picker` raises becomes `failure`, and the drafts are void.

    One model call picks for all sequences; an error out of it would lose the others' tokens.
    """

    def __init__(self, picker: TokenPicker) -> None:
        self._picker = picker
        self.failure: str | None = None
        """Why the last pick, and all after it, mean nothing; None: they are the picker's own."""

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        if self.failure is None:
            try:
                return self._picker.pick(logits, tokens)
            except Exception as error:
                self._note(error)
        return _STAND_IN

    def rewind(self, length: int) -> None:
        if self.failure is None:
            try:
                self._picker.rewind(length)
            except Exception as error:
                self._note(error)

    def _note(self, error: Exception) -> None:
        is_bug = not isinstance(error, EdgeError)
        logger.warning("no more drafts for a request: %s", error, exc_info=is_bug)
        self.failure = f"drafting failed: {error!r}" if is_bug else str(error)
