"""Puts tuner, process and file together: one autotuner per pair of models, link class and mode."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.background import BackgroundProposer, Solver
from edge_agent.control.tuning.gp_process import GpProcess
from edge_agent.control.tuning.search import (
    PAPER_THRESHOLDS,
    Proposer,
    SearchSpace,
    SobolProposer,
    dimensions_for,
)
from edge_agent.control.tuning.store import TuningKey, TuningStore
from edge_agent.control.tuning.tuner import Phase, Tuner, TunerSettings, TunerState

__all__ = ["Autotuner", "FindSpec", "FixedParameters", "ParameterSource", "TunerRegistry", "make_proposer"]


logger = logging.getLogger("pipesd.tuning")

FindSpec = Callable[[str], object | None]
"""Tells whether a package is installed, without importing it; None: it is not."""
_NEEDED: Final = ("botorch", "gpytorch")
_SEED: Final = 0


def make_proposer(
    solver: Solver,
    num_dimensions: int,
    executor: Executor,
    find_spec: FindSpec = importlib.util.find_spec,
    seed: int = _SEED,
) -> Proposer | None:
    """Bayesian optimisation by `solver` in `executor`; None where BoTorch is not installed.

    `seed` sets the first points.
    """
    if any(find_spec(package) is None for package in _NEEDED):
        return None
    return BackgroundProposer(solver, SobolProposer(num_dimensions, seed), executor)


class TunerRegistry:
    """All autotuners of an agent; they share one thread. Use from one event loop.

    `settings` hold for all of them, but for lambda, which is the key's.
    """

    def __init__(
        self,
        settings: TunerSettings | None = None,
        store: TuningStore | None = None,
        find_spec: FindSpec = importlib.util.find_spec,
    ) -> None:
        self._settings = settings or TunerSettings()
        self._store = store or TuningStore()
        self._find_spec = find_spec
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pipesd-tuner")
        self._autotuners: dict[TuningKey, Autotuner] = {}
        self._has_said = False

    def get(self, key: TuningKey, base: PolicyParameters) -> ParameterSource:
        """The autotuner of `key`; the first call for a key reads its file.

        It starts from what an earlier run found, or else from `base`, which also gives what is not tuned.
        Without BoTorch: `base`, fixed.
        """
        if key not in self._autotuners:
            autotuner = self._open(key, base)
            if autotuner is None:
                return FixedParameters(base)
            self._autotuners[key] = autotuner
        return self._autotuners[key]

    def close(self) -> None:
        """Stop what runs and save. Sessions may go on; their parameters stay."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for autotuner in self._autotuners.values():
            autotuner.close()

    def _open(self, key: TuningKey, base: PolicyParameters) -> Autotuner | None:
        space = SearchSpace(base, dimensions_for(key.mode))
        process = GpProcess(len(space.dimensions), _SEED)
        proposer = make_proposer(process, len(space.dimensions), self._executor, self._find_spec)
        if proposer is None:
            self._say_once()
            return None
        start = (base, space.with_thresholds(*PAPER_THRESHOLDS))
        trial = dataclasses.replace(self._settings.trial, pass_weight_ms=key.pass_weight_ms)
        settings = dataclasses.replace(self._settings, trial=trial)
        tuner = Tuner(space, start, proposer, settings, self._store.load(key))
        return Autotuner(tuner, lambda state: self._store.save(key, state), process.stop, self._executor)

    def _say_once(self) -> None:
        if not self._has_said:
            logger.warning(
                "BoTorch is not installed: thresholds stay fixed; `pip install 'pipesd[tune]'` tunes them"
            )
        self._has_said = True


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
