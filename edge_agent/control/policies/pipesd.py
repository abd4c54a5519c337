"""PipeSD as the paper has it: DP batches and the dual-threshold trigger (sections 3.2 and 3.3)."""

from __future__ import annotations

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.policies.base import ChainView, Decision, PolicyParameters
from edge_agent.control.policies.window import TriggerSettings
from edge_agent.control.policies.windowed import WindowedPolicy


class PipeSdPolicy(WindowedPolicy):
    """`C <= R1` or `P <= R2`; batches leave while the window grows, what is left at the trigger.

    One verification at a time: what is drafted while waiting (section 4) stays here until the
    answer shows that it still holds, then leaves as one batch.
    """

    def __init__(self, parameters: PolicyParameters, scheduler: BatchScheduler) -> None:
        self._scheduler = scheduler
        super().__init__(parameters)

    def _trigger_settings(self) -> TriggerSettings:
        given = self._parameters
        return TriggerSettings(given.sequence_threshold, given.token_threshold, self._max_window())

    def _before_trigger(self, view: ChainView) -> Decision:
        boundary = self._scheduler.is_boundary(max(1, self._window.num_tokens))
        return Decision.UPLOAD if boundary else Decision.KEEP

    def _catch_up(self) -> Decision:
        return Decision.UPLOAD

    def _verify(self) -> Decision:
        self._scheduler.finish_window(self._window.num_tokens)
        return super()._verify()
