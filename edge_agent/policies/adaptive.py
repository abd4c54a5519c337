"""The default policy: PipeSD's trigger, several verifications under way, few and small frames."""

from __future__ import annotations

from typing import Final

from edge_agent.batch_schedule import BatchScheduler
from edge_agent.policies.base import ChainView, Decision, PolicyParameters
from edge_agent.policies.pipesd import PipeSdPolicy

MIN_BATCH: Final = 4
"""Tokens below which a batch waits for the trigger: a frame's header costs as much as 4 to 8 tokens."""
_WORTHWHILE_SHARE: Final = 0.01


class AdaptivePolicy(PipeSdPolicy):
    """Verification is asked for at every trigger, whether an answer is due or not.

    The server keeps the continuation in its trie and verifies it the moment it fits: no round trip lies
    between two passes. Before the trigger, batches leave where the DP plan saves at least 1 % of the
    window's time, and with `eager_server` (mode `latency`: the server verifies what has arrived)
    as soon as `MIN_BATCH` drafts are there.
    """

    def __init__(
        self, parameters: PolicyParameters, scheduler: BatchScheduler, *, eager_server: bool = False
    ) -> None:
        self._eager_server = eager_server
        super().__init__(parameters, scheduler)

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        if self._window.observe(probability, view) or self._at_bound(view):
            return self._verify()
        return self._before_trigger(view)

    def _before_trigger(self, view: ChainView) -> Decision:
        if view.num_unsent < MIN_BATCH:
            return Decision.KEEP
        if self._eager_server:
            return Decision.UPLOAD
        plan = self._scheduler.plan
        worthwhile = plan.saving_s > _WORTHWHILE_SHARE * plan.finish_s
        return super()._before_trigger(view) if worthwhile else Decision.KEEP

    def _catch_up(self) -> Decision:
        return Decision.KEEP
