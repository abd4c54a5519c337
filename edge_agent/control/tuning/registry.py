"""Puts tuner, process and file together: one autotuner for each link class and mode of an agent."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol

from edge_agent.api import SessionMode
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.parameters import FixedParameters, SessionParameters
from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.policies.registry import DEFAULT_POLICY
from edge_agent.control.tuning.background import BackgroundProposer, Solver
from edge_agent.control.tuning.gp_process import GpProcess
from edge_agent.control.tuning.search import (
    PAPER_THRESHOLDS,
    Proposer,
    SearchSpace,
    SobolProposer,
    dimensions_for,
)
from edge_agent.control.tuning.store import TuningKey, TuningStore, link_class
from edge_agent.control.tuning.tuner import Phase, Tuner, TunerSettings, TunerState

__all__ = ["Autotuner", "FindSpec", "TunedParameters", "make_proposer"]

logger = logging.getLogger("pipesd.tuning")

FindSpec = Callable[[str], object | None]
"""Tells whether a package is installed, without importing it; None: it is not."""
_NEEDED: Final = ("botorch", "gpytorch")
_SEED: Final = 0


class StoppableSolver(Solver, Protocol):
    """A `Solver` that holds something; `stop` frees it, from any thread, more than once."""

    def stop(self) -> None: ...


class TunedParameters:
    """`AgentParameters` with an autotuner for each set mode and link class, for our own policy only.

    The baselines of the literature keep `base`: they are there to be compared with. So does everything
    where BoTorch is not installed, and until the round trip is known: results would be filed under the
    wrong class of link. All autotuners share one thread. Use from one event loop.

    `base` is also what a search without earlier results starts from. `draft` and `target` name the models;
    `pass_weight_ms`: see `TrialSettings`, in whose place in `settings` it is put.
    """

    def __init__(
        self,
        base: PolicyParameters,
        draft: str,
        target: str,
        pass_weight_ms: float = 0.0,
        *,
        settings: TunerSettings | None = None,
        store: TuningStore | None = None,
        find_spec: FindSpec = importlib.util.find_spec,
        executor: Executor | None = None,
        new_solver: Callable[[int, int], StoppableSolver] = GpProcess,
    ) -> None:
        """`executor`: where searches and savings run, a thread unless given; it is shut down with the agent.
        `new_solver(num_dimensions, seed)` makes a search method."""
        self._base = base
        self._draft = draft
        self._target = target
        self._pass_weight_ms = pass_weight_ms
        self._settings = settings or TunerSettings()
        self._store = store or TuningStore()
        self._find_spec = find_spec
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="pipesd-tuner")
        self._new_solver = new_solver
        self._autotuners: dict[TuningKey, Autotuner] = {}
        self._has_warned = False

    def for_session(
        self, policy: str, mode: SessionMode, environment: EnvironmentSnapshot
    ) -> SessionParameters:
        """The first call for a link class and mode reads its file."""
        if policy != DEFAULT_POLICY or environment.rtt_s is None or not dimensions_for(mode):
            return FixedParameters(self._base)
        link = link_class(environment.rtt_s * 1e3)
        key = TuningKey(self._draft, self._target, link, mode, self._pass_weight_ms)
        if key not in self._autotuners:
            autotuner = self._open(key)
            if autotuner is None:
                return FixedParameters(self._base)
            self._autotuners[key] = autotuner
        return self._autotuners[key]

    def close(self) -> None:
        """Stop what runs and save. Sessions may go on; their parameters stay. Idempotent."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for autotuner in self._autotuners.values():
            autotuner.close()

    def _open(self, key: TuningKey) -> Autotuner | None:
        space = SearchSpace(self._base, dimensions_for(key.mode))
        solver = self._new_solver(len(space.dimensions), _SEED)
        proposer = make_proposer(solver, len(space.dimensions), self._executor, self._find_spec)
        if proposer is None:
            self._warn_once()
            return None
        start = (self._base, space.with_thresholds(*PAPER_THRESHOLDS))
        trial = dataclasses.replace(self._settings.trial, pass_weight_ms=key.pass_weight_ms)
        settings = dataclasses.replace(self._settings, trial=trial)
        tuner = Tuner(space, start, proposer, settings, self._store.load(key))
        return Autotuner(tuner, lambda state: self._store.save(key, state), solver.stop, self._executor)

    def _warn_once(self) -> None:
        if not self._has_warned:
            logger.warning(
                "BoTorch is not installed: thresholds stay fixed; `pip install 'pipesd[edge]'` tunes them"
            )
        self._has_warned = True


class Autotuner:
    """`SessionParameters` of a tuner. Its state is saved after each trial, in `executor`.

    `save` may block. `release` frees what a search needed: called whenever a search ends, also in `executor`,
    and at the end, so more than once.
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
        """What sessions should work with now."""
        return self._tuner.parameters

    @property
    def phase(self) -> Phase:
        """What the traffic is used for now."""
        return self._tuner.phase

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """See `Tuner.observe`. Changes nothing once closed."""
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


def make_proposer(
    solver: Solver,
    num_dimensions: int,
    executor: Executor,
    find_spec: FindSpec = importlib.util.find_spec,
    seed: int = _SEED,
) -> Proposer | None:
    """Bayesian optimisation by `solver` in `executor`; None where BoTorch is not installed.

    `seed` determines the first points.
    """
    if any(find_spec(package) is None for package in _NEEDED):
        return None
    return BackgroundProposer(solver, SobolProposer(num_dimensions, seed), executor)
