"""PipeSD as the paper has it: DP batches and the dual-threshold trigger (sections 3.2 and 3.3)."""

from __future__ import annotations

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.policies.base import ChainView, CommitOutcome, Decision, PolicyParameters
from edge_agent.control.policies.window import NavWindow, TriggerSettings


class PipeSdPolicy:
    """A `Policy`: `C <= R1` or `P <= R2`; batches leave while the window grows, the rest at the trigger.

    One verification at a time: what is drafted while waiting (section 4) stays here until the
    answer shows that it still holds, then leaves as one batch.
    """

    def __init__(self, parameters: PolicyParameters, scheduler: BatchScheduler) -> None:
        self._parameters = parameters
        self._scheduler = scheduler
        self._window = NavWindow(_trigger(parameters))

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        self._window.observe(probability, view)
        if view.awaiting_commit:
            return Decision.KEEP
        if self._window.due or view.num_drafted >= self._parameters.max_ahead:
            return self._verify()
        boundary = self._scheduler.is_boundary(max(1, self._window.num_tokens))
        return Decision.UPLOAD if boundary else Decision.KEEP

    def on_commit(self, outcome: CommitOutcome) -> None:
        if outcome.rejected:
            self._window.void()

    def after_commit(self, view: ChainView) -> Decision:
        self._window.fit(view.num_drafted)
        if view.awaiting_commit or view.num_unsent == 0:
            return Decision.KEEP
        return self._verify() if self._window.due else Decision.UPLOAD

    def ahead(self, view: ChainView) -> int:
        return self._window.ahead(view, self._parameters.max_ahead)

    def retune(self, parameters: PolicyParameters) -> None:
        self._parameters = parameters
        self._window.trigger = _trigger(parameters)

    def serve(self, *, eager: bool) -> None:
        """Changes nothing: the paper's server waits."""

    def _verify(self) -> Decision:
        self._scheduler.finish_window(self._window.num_tokens)
        self._window.close()
        return Decision.VERIFY


def _trigger(parameters: PolicyParameters) -> TriggerSettings:
    return TriggerSettings(parameters.sequence_threshold, parameters.token_threshold, parameters.window_bound)
