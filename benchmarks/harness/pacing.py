"""Edges slower than this machine: a real draft model, held back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edge_agent.drafter import Drafter, DraftModelInfo, DraftToken, TokenPicker
from pipesd_vllm.protocol import Fingerprint

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

    @property
    def info(self) -> DraftModelInfo:
        return self._drafter.info

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        return self._drafter.fingerprint(num_tokens)

    def open(self, tokens: Sequence[int], picker: TokenPicker | None = None) -> int:
        return self._drafter.open(tokens, picker)

    def rewrite(self, sequence: int, length: int, tokens: Sequence[int]) -> None:
        self._drafter.rewrite(sequence, length, tokens)

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        """The model's drafts, `gamma_s` after the call at the earliest; nothing if aborted or hung."""
        self._aborted.clear()
        if self._gamma_s == float("inf"):
            self._aborted.wait(_DEAD_POLL_S)
            return {}
        started_s = self._clock()
        if self._aborted.wait(max(0.0, self._gamma_s - self._expected_s())):
            return {}
        drafts = self._run_model(sequences)
        self._aborted.wait(max(0.0, self._gamma_s - (self._clock() - started_s)))
        return drafts

    def room(self, sequence: int) -> int:
        return self._drafter.room(sequence)

    def close_sequence(self, sequence: int) -> None:
        self._drafter.close_sequence(sequence)

    def request_abort(self) -> None:
        """While the model is not at work only the wait ends: a model keeps an abort for its next call."""
        self._aborted.set()
        if self._model_runs:
            self._drafter.request_abort()

    def close(self) -> None:
        self._drafter.close()

    def _run_model(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        self._model_runs = True
        try:
            return self._drafter.draft(sequences)
        finally:
            self._model_runs = False

    def _expected_s(self) -> float:
        """Part of the time kept for the model itself, so that an abort comes before its work is done."""
        return self._gamma_s / 2
