"""The default policy: a break-even trigger, several verifications under way, few and small frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.policies.base import ChainView, CommitOutcome, Decision, PolicyParameters
from edge_agent.control.policies.window import NEVER, NavWindow, TriggerSettings

MIN_BATCH: Final = 4
"""Tokens below which a batch waits for the trigger: a frame's header costs as much as 4 to 8 tokens."""
_MIN_SAVING: Final = 0.01
"""Share of the window's time that a plan of several batches must save."""
_SLOW_DRAFT_S: Final = 0.01
"""A draft that takes longer is worth a frame of its own to a server that does not wait for it."""
MAX_BREAK_EVEN: Final = 0.7
"""Upper limit for R1's lower bound: above it most passes would yield one token."""


def break_even_confidence(costs: EnvironmentSnapshot) -> float:
    """The confidence of a window below which one more draft costs more time than it saves; 0: unknown.

    Verification waits `gamma` for the draft. If the window is right so far, which has probability C, the
    draft saves a token, which takes `TPT`: it pays while `C * TPT > gamma` (optimal stopping).
    """
    if costs.gamma_s is None or not costs.tpt_s:
        return 0.0
    return min(MAX_BREAK_EVEN, costs.gamma_s / costs.tpt_s)


class AdaptivePolicy:
    """A `Policy` that asks for verification at every trigger, even while an answer is awaited.

    The server keeps the continuation in its trie and verifies it as soon as it fits: no round trip lies
    between two passes. The trigger is the confidence at which drafting on breaks even by `costs`, which are
    read at each commit; without `costs` it is the parameters' R1 and R2. To a server that decodes by itself
    drafts go as soon as they make a frame.
    """

    def __init__(
        self,
        parameters: PolicyParameters,
        scheduler: BatchScheduler,
        costs: Callable[[], EnvironmentSnapshot] | None = None,
    ) -> None:
        self._parameters = parameters
        self._scheduler = scheduler
        self._costs = costs
        self._is_eager = False
        self._read_costs()
        self._window = NavWindow(self._trigger())

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        self._window.observe(probability, view)
        if self._window.due or view.num_drafted >= self._parameters.max_ahead:
            return self._verify()
        if self._is_eager:
            return Decision.UPLOAD if view.num_unsent >= self._min_batch else Decision.KEEP
        return Decision.UPLOAD if self._is_batch(view) else Decision.KEEP

    def on_commit(self, outcome: CommitOutcome) -> None:
        self._read_costs()
        self._window.trigger = self._trigger()
        if outcome.rejected:
            self._window.void()

    def after_commit(self, view: ChainView) -> Decision:
        self._window.fit(view.num_drafted)
        if self._window.due and not view.awaiting_commit and view.num_unsent:
            return self._verify()
        return Decision.KEEP

    def on_run(self, confidences: Sequence[float], view: ChainView) -> Decision:
        """Drafts that cost nothing have joined the chain, which `view` shows: send them at once."""
        num_before = view.num_drafted - len(confidences)
        for i, confidence in enumerate(confidences, start=1):
            self._window.observe(confidence, replace(view, num_drafted=num_before + i))
        if self._window.due or view.num_drafted >= self._parameters.max_ahead:
            return self._verify()
        return Decision.UPLOAD

    def ahead(self, view: ChainView) -> int:
        return self._window.ahead(view, self._parameters.max_ahead)

    def retune(self, parameters: PolicyParameters) -> None:
        self._parameters = parameters
        self._window.trigger = self._trigger()

    def serve(self, *, eager: bool) -> None:
        self._is_eager = eager

    def _verify(self) -> Decision:
        self._scheduler.finish_window(self._window.num_tokens)
        self._window.close()
        return Decision.VERIFY

    def _is_batch(self, view: ChainView) -> bool:
        """Whether the DP plan ends a batch here, and is worth its frames."""
        plan = self._scheduler.plan
        return (
            view.num_unsent >= MIN_BATCH
            and plan.saving_s > _MIN_SAVING * plan.finish_s
            and self._scheduler.is_boundary(max(1, self._window.num_tokens))
        )

    def _read_costs(self) -> None:
        costs = EnvironmentSnapshot() if self._costs is None else self._costs()
        self._min_batch = MIN_BATCH if (costs.gamma_s or 0.0) < _SLOW_DRAFT_S else 1
        self._break_even = break_even_confidence(costs)

    def _trigger(self) -> TriggerSettings:
        given = self._parameters
        if self._costs is None:
            return TriggerSettings(given.sequence_threshold, given.token_threshold, given.window_bound)
        threshold = min(MAX_BREAK_EVEN, given.confidence_margin * self._break_even)
        return TriggerSettings(threshold, NEVER, given.window_bound)
