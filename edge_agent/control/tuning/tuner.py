"""The on-line autotuner as a state machine. Pure: no clock, no thread, no I/O.

After PipeSD's, which finds R1 and R2 by Bayesian optimisation. Search: trials in live traffic at the start
points, then where the proposer says. Confirm: the points expected to be best are measured again. Exploit: the
best one stays until the cost drifts; then all starts again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.drift import DriftWatch
from edge_agent.control.tuning.observations import Observation, adapted, mean_costs, ranked
from edge_agent.control.tuning.search import Evaluation, Proposer
from edge_agent.control.tuning.space import SearchSpace
from edge_agent.control.tuning.state import Phase, TunerSettings, TunerState
from edge_agent.control.tuning.trial import Trial

__all__ = ["Tuner"]

logger = logging.getLogger("pipesd.tuning")


class Tuner:
    """Varies the parameters of live traffic and settles on the best.

    `start`, not empty, are the points measured first. `state`, of an earlier run, is taken over as far as it
    fits `space`.
    """

    def __init__(
        self,
        space: SearchSpace,
        start: Sequence[PolicyParameters],
        proposer: Proposer,
        settings: TunerSettings,
        state: TunerState | None = None,
    ) -> None:
        self._space = space
        self._start = [space.nearest(parameters) for parameters in start]
        self._proposer = proposer
        self._settings = settings
        self._num_to_skip = 0
        self._revision = 0
        state = state or TunerState()
        self._observations = adapted(state.observations, space)
        self._num_evaluated = max(0, len(self._observations) - state.num_uncounted)
        measured = mean_costs(self._observations)
        self._last_best = None if state.last_best is None else space.nearest(state.last_best)
        first = self._start if self._last_best is None else [self._last_best, *self._start]
        self._queue = deque(point for point in dict.fromkeys(first) if point not in measured)
        self._trial = Trial(self._start[0], settings.trial)
        if state.best is None:
            self._proceed()
        else:
            self._exploit(space.nearest(state.best), state.baseline_ms)

    @property
    def parameters(self) -> PolicyParameters:
        """What sessions should work with now."""
        return self._trial.parameters

    @property
    def phase(self) -> Phase:
        """What the traffic is used for now."""
        return self._phase

    @property
    def state(self) -> TunerState:
        """For the next run."""
        observations = tuple(self._observations)
        if self._phase is not Phase.EXPLOITING:
            num_uncounted = len(observations) - self._num_evaluated
            return TunerState(observations, num_uncounted=num_uncounted, last_best=self._last_best)
        return TunerState(observations, self.parameters, self._watch.baseline_ms)

    @property
    def revision(self) -> int:
        """Goes up whenever `state` changes."""
        return self._revision

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """Take one commit of any session; True: `parameters` changed.

        `elapsed_s`: since the same session's previous commit; a turn's first commit has none and is not
        reported. `num_passes`: target forward passes. `under`: what the session worked with in that time, if
        known; a commit under other parameters than the current ones is left out.
        """
        before = self.parameters
        if self._counts(num_tokens, elapsed_s, under):
            self._trial.add(num_tokens, elapsed_s, num_passes)
            if self._phase is not Phase.WAITING and self._is_over():
                self._conclude()
        if self._phase is Phase.WAITING:
            self._ask()
        return self.parameters != before

    def _counts(self, num_tokens: int, elapsed_s: float, under: PolicyParameters | None) -> bool:
        """Whether a commit tells something about the current parameters."""
        if num_tokens < 1 or not 0.0 < elapsed_s <= self._settings.max_interval_s:
            return False
        if under is not None and self._space.nearest(under) != self.parameters:
            return False
        self._num_to_skip -= 1
        return self._num_to_skip < 0

    def _is_over(self) -> bool:
        """A trial is compared with the best so far; a window of the best parameters is not."""
        if self._phase is Phase.EXPLOITING or not self._observations:
            return self._trial.is_complete()
        best_cost_ms = min(mean_costs(self._observations).values())
        return self._trial.is_complete(best_cost_ms) or self._trial.is_hopeless(best_cost_ms)

    def _conclude(self) -> None:
        """End the trial or the window that is running."""
        seen = self._trial.finish()
        logger.debug("%s: %s", self._phase, seen)
        if self._phase is Phase.EXPLOITING:
            self._watch_for_drift(seen)
            return
        self._record(seen)
        self._num_evaluated += 1
        self._proceed()

    def _record(self, seen: Observation) -> None:
        self._observations.append(seen)
        self._revision += 1

    def _proceed(self) -> None:
        """Try the next point of the queue, or wait for the proposer at the best one."""
        if self._queue:
            self._run(self._queue.popleft(), Phase.TRYING)
        else:
            self._run(ranked(self._observations)[0], Phase.WAITING)

    def _ask(self) -> None:
        """Go on if the proposer has an answer."""
        seen = [
            Evaluation(self._space.to_unit(o.parameters), o.cost_ms, o.num_tokens, o.relative_error)
            for o in self._observations
        ]
        suggestion = self._proposer.suggest(seen)
        if suggestion is None:
            return
        order = ranked(self._observations, suggestion.estimates)
        if self._trial.is_complete():
            self._record(self._trial.finish())
        num_left = self._settings.num_evaluations - self._num_evaluated
        if num_left <= 0:
            self._exploit(order[0], None)
        elif num_left > self._settings.num_confirmations:
            self._run(self._space.from_unit(suggestion.point), Phase.TRYING)
        elif suggestion.best is not None:
            self._run(self._space.from_unit(suggestion.best), Phase.TRYING)
        else:
            self._queue.extend(order[:num_left])
            self._proceed()

    def _exploit(self, best: PolicyParameters, baseline_ms: float | None) -> None:
        logger.info("in use: %s", best)
        self._watch = DriftWatch(self._settings.drift, baseline_ms)
        self._last_best = None
        self._run(best, Phase.EXPLOITING)
        self._revision += 1

    def _watch_for_drift(self, window: Observation) -> None:
        """Search anew if it drifted, from what was good before; what was measured then no longer holds."""
        baseline_ms = self._watch.baseline_ms
        drifted = self._watch.add(window.cost_ms)
        self._revision += self._watch.baseline_ms != baseline_ms
        if not drifted:
            self._run(window.parameters, Phase.EXPLOITING)
            return
        logger.info("cost went from %s to %.2f ms: tuning again", baseline_ms, window.cost_ms)
        first = [window.parameters, *ranked(self._observations)[:2], *self._start]
        self._revision += 1
        self._last_best = window.parameters
        self._observations = []
        self._num_evaluated = 0
        self._queue = deque(dict.fromkeys(first))
        self._proceed()

    def _run(self, parameters: PolicyParameters, phase: Phase) -> None:
        if parameters != self.parameters:
            self._num_to_skip = self._settings.num_settling_commits
        self._trial = Trial(parameters, self._settings.trial)
        self._phase = phase
