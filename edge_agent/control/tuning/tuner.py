"""The on-line autotuner as a state machine. Pure: no clock, no thread, no I/O.

After PipeSD's, which finds R1 and R2 by Bayesian optimisation. Search: trials in live traffic at the start
points, then where the proposer says. Confirm: the points expected to be best are measured again. Exploit: the
best one stays until the cost drifts; then all starts again.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.search import Evaluation, Proposer, SearchSpace

__all__ = [
    "DriftSettings",
    "DriftWatch",
    "Observation",
    "Phase",
    "Trial",
    "TrialSettings",
    "Tuner",
    "TunerSettings",
    "TunerState",
    "mean_costs",
    "move_into",
    "ranked",
]

logger = logging.getLogger("pipesd.tuning")


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """How long a trial is and what it minimises. Tokens are accepted ones."""

    min_num_tokens: int = 64
    """No trial is complete with fewer."""
    max_num_tokens: int = 192
    """Every trial is complete with this many."""
    max_relative_error: float = 0.08
    """In between, one is complete once its mean is known this well (standard error over mean)."""
    num_tokens_before_cut: int = 16
    """Least number of tokens that `cut_factor` is applied to."""
    cut_factor: float = 1.5
    """A trial ends early at this multiple of the best known cost."""
    pass_weight_ms: float = 0.0
    """Lambda: what one target forward pass costs, in ms of waiting that would be as bad."""


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """When a change of cost counts as drift."""

    threshold: float = 0.2
    """Relative change of the cost, up or down."""
    num_windows: int = 3
    """Number of windows in a row that must be off to the same side."""


@dataclass(frozen=True, slots=True)
class TunerSettings:
    """How much a search measures."""

    trial: TrialSettings = field(default_factory=TrialSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    num_evaluations: int = 16
    """Trials of a search."""
    num_confirmations: int = 3
    """Number of them, at the end, that measure the best points again."""
    num_settling_commits: int = 1
    """Commits left out after a change: their drafts were made before it."""
    max_interval_s: float = 10.0
    """Commits that took longer are ignored: something other than the parameters held them up."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished trial."""

    parameters: PolicyParameters
    cost_ms: Annotated[float, msgspec.Meta(gt=0.0)]
    """The objective per accepted token, see `trial.Trial`; of a trial that was cut short, at least this."""
    num_tokens: Annotated[int, msgspec.Meta(ge=1)]
    """Accepted tokens it was measured over."""
    relative_error: Annotated[float, msgspec.Meta(ge=0.0)]
    """Standard error of `cost_ms`, as a share of it."""


@dataclass(frozen=True, slots=True)
class TunerState:
    """The part of a tuner that outlives the process; `TuningStore` keeps it."""

    observations: tuple[Observation, ...] = ()
    """Of the current search, oldest first."""
    best: PolicyParameters | None = None
    """The result of the search; None: not finished."""
    baseline_ms: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    """Cost of `best` as measured after the search."""
    num_uncounted: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of an unfinished search's `observations`, those made while waiting for a suggestion: no trials."""
    last_best: PolicyParameters | None = None
    """The result of the search before, as long as the current one has none."""


class Phase(enum.StrEnum):
    """What live traffic is used for."""

    TRYING = "trying"
    """A trial of a point is running."""
    WAITING = "waiting"
    """Traffic runs at the best point known until the proposer answers."""
    EXPLOITING = "exploiting"
    """The search is over and its result in use."""


class Tuner:
    """Varies the parameters of live traffic and settles on the best ones.

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
        self._observations = move_into(space, state.observations)
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
        """Whether a commit measures the current parameters."""
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
        """On drift: drop the measurements and search again from the best known points."""
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


class Trial:
    """Accumulates commits under one set of parameters.

    The objective is TPT in ms plus lambda times target passes per token, over all commits.
    """

    def __init__(self, parameters: PolicyParameters, settings: TrialSettings) -> None:
        self.parameters = parameters
        self._settings = settings
        self._num_commits = 0
        self._tokens = self._tokens_squared = 0
        self._cost_ms = self._cost_squared = self._cost_times_tokens = 0.0

    def add(self, num_tokens: int, elapsed_s: float, num_passes: int) -> None:
        """One commit: its tokens, seconds since the session's previous one, the target passes it took."""
        cost_ms = 1e3 * elapsed_s + self._settings.pass_weight_ms * num_passes
        self._num_commits += 1
        self._tokens += num_tokens
        self._tokens_squared += num_tokens**2
        self._cost_ms += cost_ms
        self._cost_squared += cost_ms**2
        self._cost_times_tokens += cost_ms * num_tokens

    def is_complete(self, best_cost_ms: float | None = None) -> bool:
        """Whether the mean is known well enough, or is clearly above the best one."""
        limits = self._settings
        if self._tokens < limits.min_num_tokens:
            return False
        error = self._relative_error()
        if self._tokens >= limits.max_num_tokens or error <= limits.max_relative_error:
            return True
        return best_cost_ms is not None and self._cost_ms / self._tokens * (1.0 - error) > best_cost_ms

    def is_hopeless(self, best_cost_ms: float) -> bool:
        """Whether the cost is so far above `best_cost_ms` that the trial should end now.

        Judged on the cost it would still have with `num_tokens_before_cut` tokens, the missing ones free: so
        parameters that stall everything are noticed before as many tokens have trickled in. The margin: times
        between commits scatter by about their mean, so that the mean of k is off by 1/sqrt(k) of itself.
        """
        if not self._num_commits:
            return False
        margin = 1.0 + 1.0 / math.sqrt(self._num_commits)
        at_least_ms = self._cost_ms / max(self._tokens, self._settings.num_tokens_before_cut)
        return at_least_ms > best_cost_ms * self._settings.cut_factor * margin

    def finish(self) -> Observation:
        """The measurement so far. Needs at least one commit."""
        return Observation(
            self.parameters, self._cost_ms / self._tokens, self._tokens, self._relative_error()
        )

    def _relative_error(self) -> float:
        """Standard error of the mean cost per token over that mean, as of a ratio of sums; 1 if unknown."""
        k, ratio = self._num_commits, self._cost_ms / self._tokens
        if k < 2:
            return 1.0
        residuals = self._cost_squared - 2 * ratio * self._cost_times_tokens + ratio**2 * self._tokens_squared
        return math.sqrt(max(residuals, 0.0) * k / (k - 1)) / self._cost_ms


class DriftWatch:
    """Detects drift: compares windows of traffic with a baseline, given or the mean of the first windows.

    The measurements that made a point the best are not used as a baseline: the best of many is a lucky one.
    """

    def __init__(self, settings: DriftSettings, baseline_ms: float | None = None) -> None:
        self.baseline_ms = baseline_ms
        self._settings = settings
        self._first_windows: list[float] = []
        self._num_off = 0
        """Windows in a row that were off: positive above the baseline, negative below."""

    def add(self, cost_ms: float) -> bool:
        """Take a window's cost; True: it has drifted from the baseline."""
        if self.baseline_ms is None:
            self._first_windows.append(cost_ms)
            if len(self._first_windows) >= self._settings.num_windows:
                self.baseline_ms = sum(self._first_windows) / len(self._first_windows)
            return False
        change = cost_ms / self.baseline_ms - 1.0
        if abs(change) <= self._settings.threshold:
            self._num_off = 0
        elif change > 0.0:
            self._num_off = max(self._num_off, 0) + 1
        else:
            self._num_off = min(self._num_off, 0) - 1
        return abs(self._num_off) >= self._settings.num_windows


def mean_costs(observations: Sequence[Observation]) -> dict[PolicyParameters, float]:
    """Cost of each point in ms, averaged over its observations, weighted by their tokens."""
    sums: dict[PolicyParameters, tuple[float, int]] = {}
    for seen in observations:
        cost_ms, num_tokens = sums.get(seen.parameters, (0.0, 0))
        sums[seen.parameters] = cost_ms + seen.cost_ms * seen.num_tokens, num_tokens + seen.num_tokens
    return {parameters: cost_ms / num_tokens for parameters, (cost_ms, num_tokens) in sums.items()}


def ranked(
    observations: Sequence[Observation], estimates: Sequence[float] | None = None
) -> list[PolicyParameters]:
    """The distinct points, best first.

    By `estimates`, a model's of each observation's cost in the same order, if there are any: a model sees
    through lucky samples. By average cost otherwise.
    """
    costs = mean_costs(observations)
    if estimates is not None:
        costs = {seen.parameters: cost for seen, cost in zip(observations, estimates, strict=True)}
    return sorted(costs, key=lambda parameters: costs[parameters])


def move_into(space: SearchSpace, observations: Sequence[Observation]) -> list[Observation]:
    """`observations`, perhaps made in another space, each moved to the nearest point of `space`."""
    return [dataclasses.replace(o, parameters=space.nearest(o.parameters)) for o in observations]
