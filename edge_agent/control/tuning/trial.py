"""One measurement of one set of parameters in live traffic. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.observations import Observation

__all__ = ["Trial", "TrialSettings"]


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """How long a trial is and what it minimises. Tokens are accepted ones."""

    min_num_tokens: int = 64
    """No trial is complete with fewer."""
    max_num_tokens: int = 192
    """Every trial is complete with so many."""
    max_relative_error: float = 0.08
    """In between, one is complete once its mean is known this well (standard error over mean)."""
    num_tokens_before_cut: int = 16
    """A trial is judged as if it had at least so many."""
    cut_factor: float = 1.5
    """So many times the best known cost is too much to go on."""
    pass_weight_ms: float = 0.0
    """Lambda: what one target forward pass costs, in ms of waiting that would be as bad."""


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
        """Whether more tokens would tell little: the mean is known well, or clearly above the best one."""
        limits = self._settings
        if self._tokens < limits.min_num_tokens:
            return False
        error = self._relative_error()
        if self._tokens >= limits.max_num_tokens or error <= limits.max_relative_error:
            return True
        return best_cost_ms is not None and self._cost_ms / self._tokens * (1.0 - error) > best_cost_ms

    def is_hopeless(self, best_cost_ms: float) -> bool:
        """Whether it is so much worse than `best_cost_ms` that users need not bear it to the end.

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
        """What was measured so far. Needs at least one commit."""
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
