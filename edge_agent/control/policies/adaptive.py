"""The default policy: PipeSD's trigger, several verifications under way, few and small frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.policies.base import ChainView, Decision, PolicyParameters, RoundOutcome
from edge_agent.control.policies.pipesd import PipeSdPolicy
from edge_agent.control.policies.window import TriggerSettings

MIN_BATCH: Final = 4
"""Tokens below which a batch waits for the trigger: a frame's header costs as much as 4 to 8 tokens."""
_WORTHWHILE_SHARE: Final = 0.01
_SLOW_DRAFT_S: Final = 0.01
"""Drafts that take longer are worth a frame each to a server that does not wait for them."""
_KEEPS_UP_SHARE: Final = 0.9
_COMMITS_TO_SHOW_IT: Final = 8
"""So many commits of each session are drafted for: how long a draft takes is known from drafts alone."""
MOST_BREAK_EVEN: Final = 0.7
"""Above it passes are asked for that bring hardly more than a token."""


def break_even_confidence(costs: EnvironmentSnapshot) -> float:
    """The confidence of a window below which one more draft costs more time than it saves; 0: not known.

    Verification waits `gamma` for it, and if the window is right so far, which has probability C, a token
    is saved, which takes `TPT`: it pays while `C * TPT > gamma` (optimal stopping).
    """
    if costs.gamma_s is None or not costs.tpt_s:
        return 0.0
    return min(MOST_BREAK_EVEN, costs.gamma_s / costs.tpt_s)


class AdaptivePolicy(PipeSdPolicy):
    """Verification is asked for at every trigger, whether an answer is due or not.

    The server keeps the continuation in its trie and verifies it the moment it fits: no round trip lies
    between two passes. Before the trigger, batches leave where the DP plan saves at least 1 % of the
    window's time, and with `eager_server` (mode `latency`: the server verifies what has arrived)
    as soon as `MIN_BATCH` drafts are there, or one, of a slow draft model. R1 is at least the confidence
    at which drafting on breaks even by `costs`.
    """

    def __init__(
        self,
        parameters: PolicyParameters,
        scheduler: BatchScheduler,
        costs: Callable[[], EnvironmentSnapshot] = EnvironmentSnapshot,
        *,
        eager_server: bool = False,
    ) -> None:
        self._costs = costs
        self._num_commits = 0
        self._read_costs()
        self._eager_server = eager_server
        super().__init__(parameters, scheduler)

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        if self._window.observe(probability, view) or self._at_bound(view):
            return self._verify()
        return self._before_trigger(view)

    def on_commit(self, outcome: RoundOutcome) -> None:
        self._num_commits += 1
        self._read_costs()
        self._window.retune(self._trigger_settings())
        super().on_commit(outcome)

    def ahead(self, view: ChainView) -> int:
        """Nothing, for a server that does not wait and makes tokens faster than they are drafted here."""
        left_behind = self._eager_server and not self._keeps_up and self._num_commits >= _COMMITS_TO_SHOW_IT
        return 0 if left_behind else super().ahead(view)

    def _read_costs(self) -> None:
        costs = self._costs()
        self._keeps_up = (costs.gamma_s or 0.0) < _KEEPS_UP_SHARE * (costs.step_s or math.inf)
        self._break_even = break_even_confidence(costs)
        self._min_batch = MIN_BATCH if (costs.gamma_s or 0.0) < _SLOW_DRAFT_S else 1

    def _trigger_settings(self) -> TriggerSettings:
        settings = super()._trigger_settings()
        return replace(settings, sequence_threshold=max(settings.sequence_threshold, self._break_even))

    def _before_trigger(self, view: ChainView) -> Decision:
        if self._eager_server:
            return Decision.UPLOAD if view.num_unsent >= self._min_batch else Decision.KEEP
        if view.num_unsent < MIN_BATCH:
            return Decision.KEEP
        plan = self._scheduler.plan
        worthwhile = plan.saving_s > _WORTHWHILE_SHARE * plan.finish_s
        return super()._before_trigger(view) if worthwhile else Decision.KEEP

    def _catch_up(self) -> Decision:
        return Decision.KEEP
