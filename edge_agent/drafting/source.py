"""The seam between the session and what drafts without a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from edge_agent.sampling import DraftToken

__all__ = ["DraftSource", "DraftSources", "GuardedSource"]

logger = logging.getLogger("pipesd.draft")


class DraftSource(Protocol):
    """Proposes runs of drafts after one text, at no cost worth counting. The event loop calls it.

    It may be wrong, repeat itself or have nothing to say: the target checks every draft.
    """

    def follow(self, tokens: Sequence[int]) -> None:
        """`tokens` were committed; the drafts that they contradict are void, and those after them."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """`tokens` were drafted after the text, by this source or another."""
        ...

    def propose(self, most: int, survival: float, least: float) -> Sequence[DraftToken]:
        """What may come next, `most` tokens at most. Changes nothing.

        Each with the chance that it is right if those before are. `survival`: that of all drafts so far; the
        last proposed must be reached with a chance of `least`.
        """
        ...


class DraftSources(Protocol):
    """Makes what looks drafts up for one request."""

    def is_quick(self, num_tokens: int) -> bool:
        """Whether `after` a prompt of so many tokens takes a few milliseconds only, and needs no thread."""
        ...

    def after(self, prompt: Sequence[int]) -> DraftSource:
        """Drafts for one answer after `prompt`. From any thread."""
        ...


class GuardedSource:
    """A `DraftSource` that never raises: after an error it has nothing to say.

    What it proposes is cut to what was asked for, and to ids below `vocab_size`.
    """

    def __init__(self, source: DraftSource, vocab_size: int) -> None:
        self._source: DraftSource | None = source
        self._vocab_size = vocab_size

    def follow(self, tokens: Sequence[int]) -> None:
        if self._source is not None:
            try:
                self._source.follow(tokens)
            except Exception:
                self._end()

    def extend(self, tokens: Sequence[int]) -> None:
        if self._source is not None:
            try:
                self._source.extend(tokens)
            except Exception:
                self._end()

    def propose(self, most: int, survival: float, least: float) -> Sequence[DraftToken]:
        if self._source is not None:
            try:
                found = self._source.propose(most, survival, least)[:most]
                return list(takewhile(lambda draft: 0 <= draft.token_id < self._vocab_size, found))
            except Exception:
                self._end()
        return ()

    def _end(self) -> None:
        logger.exception("looking drafts up failed: this answer goes on without")
        self._source = None
