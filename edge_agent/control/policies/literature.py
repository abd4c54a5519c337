"""The baselines of the paper: vanilla speculative decoding, HSL and EdgeLLM. One upload a round each."""

from __future__ import annotations

from typing import Final

from edge_agent.control.policies.base import ChainView, CommitOutcome, Decision, PolicyParameters
from edge_agent.control.policies.window import NEVER, NavWindow, TriggerSettings

CODE_WINDOW: Final = 6
"""Vanilla's N for code, in tokens."""
MATHS_WINDOW: Final = 4
_MIN_THRESHOLD: Final = 1e-3
_MIN_CONFIDENCE: Final = 1e-9


class _OneUpload:
    """Sends what it has when it asks for verification, one request at a time; a subclass sets the trigger."""

    def __init__(self, parameters: PolicyParameters) -> None:
        self._parameters = parameters
        self._window = NavWindow(self._trigger())

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        self._window.observe(probability, view)
        if view.awaiting_commit:
            return Decision.KEEP
        due = self._window.due or view.num_drafted >= self._parameters.max_ahead
        return self._verify() if due else Decision.KEEP

    def on_commit(self, outcome: CommitOutcome) -> None:
        if outcome.rejected:
            self._window.void()

    def after_commit(self, view: ChainView) -> Decision:
        self._window.fit(view.num_drafted)
        if self._window.due and not view.awaiting_commit and view.num_unsent:
            return self._verify()
        return Decision.KEEP

    def ahead(self, view: ChainView) -> int:
        """No draft while waiting; one that was under way at the trigger is kept."""
        if view.awaiting_commit:
            return view.num_drafted
        if self._window.due:
            return view.num_drafted + 1
        bound = min(self._parameters.max_ahead, view.num_drafted + self._window.num_left)
        return max(bound, view.num_drafted + 1)

    def retune(self, parameters: PolicyParameters) -> None:
        self._parameters = parameters
        self._window.trigger = self._trigger()

    def serve(self, *, eager: bool) -> None:
        """Changes nothing: the papers' servers wait."""

    def _verify(self) -> Decision:
        self._window.close()
        return Decision.VERIFY

    def _trigger(self) -> TriggerSettings:
        raise NotImplementedError


class VanillaPolicy(_OneUpload):
    """Drafts `fixed_window` tokens (at most the parameters' bounds), sends and verifies, waits."""

    def __init__(self, parameters: PolicyParameters, fixed_window: int = CODE_WINDOW) -> None:
        self._fixed_window = fixed_window
        super().__init__(parameters)

    def _trigger(self) -> TriggerSettings:
        return TriggerSettings(NEVER, NEVER, min(self._fixed_window, self._parameters.window_bound))


class HslPolicy(_OneUpload):
    """Verifies at `P <= R2` only; idle while waiting."""

    def _trigger(self) -> TriggerSettings:
        return TriggerSettings(NEVER, self._parameters.token_threshold, self._parameters.window_bound)


class EdgeLlmPolicy(_OneUpload):
    """Verifies at `C <= R1` only; drafts on while waiting.

    R1 starts at the parameters' and is halved after a full accept; else it is divided by
    `C^((n - accepted)/n)` for n verified drafts of joint confidence C. It stays in [0.001, 0.999].
    """

    def __init__(self, parameters: PolicyParameters) -> None:
        self.threshold = _clamp(parameters.sequence_threshold)
        """R1 now."""
        self._asked_confidence = 1.0
        super().__init__(parameters)

    def on_commit(self, outcome: CommitOutcome) -> None:
        super().on_commit(outcome)
        if outcome.num_verified == 0:
            return
        if outcome.num_accepted >= outcome.num_verified:
            self.threshold = _clamp(self.threshold * 0.5)
        else:
            rejected_share = 1.0 - outcome.num_accepted / outcome.num_verified
            self.threshold = _clamp(self.threshold / self._asked_confidence**rejected_share)
        self._window.trigger = self._trigger()

    def ahead(self, view: ChainView) -> int:
        return self._window.ahead(view, self._parameters.max_ahead)

    def retune(self, parameters: PolicyParameters) -> None:
        """Restart the adaptation from the new R1."""
        self.threshold = _clamp(parameters.sequence_threshold)
        super().retune(parameters)

    def _verify(self) -> Decision:
        self._asked_confidence = max(_MIN_CONFIDENCE, self._window.confidence)
        return super()._verify()

    def _trigger(self) -> TriggerSettings:
        return TriggerSettings(self.threshold, NEVER, self._parameters.window_bound)


def _clamp(threshold: float) -> float:
    return min(1.0 - _MIN_THRESHOLD, max(_MIN_THRESHOLD, threshold))
