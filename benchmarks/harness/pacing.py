"""Edges slower than this machine: a real draft model, held back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edge_agent.drafting import Drafter
from edge_agent.sampling import DraftToken

__all__ = ["PacedDrafter"]

_DEAD_POLL_S: Final = 0.05


class PacedDrafter:
    """A `Drafter` whose calls take at least `gamma_s`; endless means an edge that has hung."""

    def __init__(self, drafter: Drafter, gamma_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._drafter = drafter
        self._gamma_s = gamma_s
        self._clock = clock
        self._aborted = threading.Event()
        self._model_runs = False

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        """The model's drafts, `gamma_s` after the call at the earliest; nothing if aborted or hung.

        Half of the time passes before the model is asked, so that an abort comes before its work is done.
        """
        self._aborted.clear()
        if self._gamma_s == float("inf"):
            self._aborted.wait(_DEAD_POLL_S)
            return {}
        started_s = self._clock()
        if self._aborted.wait(self._gamma_s / 2):
            return {}
        self._model_runs = True
        try:
            drafts = self._drafter.draft(sequences)
        finally:
            self._model_runs = False
        self._aborted.wait(max(0.0, self._gamma_s - (self._clock() - started_s)))
        return drafts

    def request_abort(self) -> None:
        """While the model is not at work only the wait ends: a model keeps an abort for its next call."""
        self._aborted.set()
        if self._model_runs:
            self._drafter.request_abort()

    def __getattr__(self, name: str) -> Any:
        """All else is the drafter's own."""
        return getattr(self._drafter, name)
