"""What a session is given: parameters that are fixed, or that a tuner varies under it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.state import Phase, TunerState
from edge_agent.control.tuning.tuner import Tuner

__all__ = ["Autotuner", "FixedParameters", "ParameterSource"]


class ParameterSource(Protocol):
    """Shared by all sessions of an event loop. Nothing here blocks or raises."""

    @property
    def parameters(self) -> PolicyParameters:
        """What sessions should work with now."""
        ...

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """Take one commit, see `Tuner.observe`; True: `parameters` changed."""
        ...


class FixedParameters:
    """No tuning."""

    def __init__(self, parameters: PolicyParameters) -> None:
        self.parameters = parameters

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """Changes nothing."""
        return False


class Autotuner:
    """A tuner whose state is saved after each trial, in `executor`, and that frees what a search needed.

    `save` may block; `release` is called when a search is over, in `executor` too, and more than once.
    """

    def __init__(
        self,
        tuner: Tuner,
        save: Callable[[TunerState], None],
        release: Callable[[], None],
        executor: Executor,
    ) -> None:
        self._tuner = tuner
        self._save = save
        self._release = release
        self._executor = executor
        self._newest = tuner.state
        self._saved_revision = tuner.revision
        self._saving = threading.Lock()
        self._is_closed = False

    @property
    def parameters(self) -> PolicyParameters:
        """See `ParameterSource`."""
        return self._tuner.parameters

    @property
    def phase(self) -> Phase:
        """What the traffic is used for now."""
        return self._tuner.phase

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """See `Tuner.observe`. Once closed, nothing changes any more."""
        if self._is_closed:
            return False
        changed = self._tuner.observe(num_tokens, elapsed_s, num_passes, under)
        if self._tuner.revision != self._saved_revision:
            self._saved_revision = self._tuner.revision
            self._newest = self._tuner.state
            self._keep()
        return changed

    def _keep(self) -> None:
        with contextlib.suppress(RuntimeError):  # shut down: `close` saves
            self._executor.submit(self._save_newest)
            if self._tuner.phase is Phase.EXPLOITING:
                self._executor.submit(self._release)

    def _save_newest(self) -> None:
        with self._saving:  # a save that is under way in `executor` must not end after that of `close`
            self._save(self._newest)

    def close(self) -> None:
        """Free everything and save, now. Safe to repeat."""
        if not self._is_closed:
            self._is_closed = True
            self._release()
            self._newest = self._tuner.state
            self._save_newest()
