"""Vanilla speculative decoding: a fixed number of drafts a round (baseline of the paper)."""

from __future__ import annotations

from typing import Final

from edge_agent.control.policies.base import Decision, PolicyParameters, RoundOutcome
from edge_agent.control.policies.window import TriggerSettings
from edge_agent.control.policies.windowed import NEVER, IdlePolicy, WindowedPolicy

CODE_WINDOW: Final = 6
"""N for code, in tokens."""
MATHS_WINDOW: Final = 4


class VanillaPolicy(IdlePolicy):
    """Drafts `fixed_window` tokens (at most the parameters' bounds), sends and verifies, waits."""

    def __init__(self, parameters: PolicyParameters, fixed_window: int = CODE_WINDOW) -> None:
        self._fixed_window = fixed_window
        super().__init__(parameters)

    def _trigger_settings(self) -> TriggerSettings:
        return TriggerSettings(NEVER, NEVER, min(self._fixed_window, self._max_window()))


class HslPolicy(IdlePolicy):
    """`P <= R2` alone; one upload; idle while waiting."""

    def _trigger_settings(self) -> TriggerSettings:
        return TriggerSettings(NEVER, self._parameters.token_threshold, self._max_window())


_LEAST_THRESHOLD: Final = 1e-3
_LEAST_CONFIDENCE: Final = 1e-9


class EdgeLlmPolicy(WindowedPolicy):
    """`C <= R1` alone; one upload; drafts on while waiting.

    R1 starts at the parameters' and is halved after a full accept; else it is divided by
    `C^((n - accepted)/n)` for n verified drafts of joint confidence C. It stays in [0.001, 0.999].
    """

    def __init__(self, parameters: PolicyParameters) -> None:
        self.threshold = _clamp(parameters.sequence_threshold)
        """R1 now."""
        self._asked_confidence = 1.0
        super().__init__(parameters)

    def on_commit(self, outcome: RoundOutcome) -> None:
        super().on_commit(outcome)
        if outcome.num_verified == 0:
            return
        if outcome.num_accepted >= outcome.num_verified:
            self.threshold = _clamp(self.threshold * 0.5)
        else:
            rejected_share = 1.0 - outcome.num_accepted / outcome.num_verified
            self.threshold = _clamp(self.threshold / self._asked_confidence**rejected_share)
        self._window.retune(self._trigger_settings())

    def retune(self, parameters: PolicyParameters) -> None:
        """A new R1 is a new start for the adaptive one."""
        self.threshold = _clamp(parameters.sequence_threshold)
        super().retune(parameters)

    def _trigger_settings(self) -> TriggerSettings:
        return TriggerSettings(self.threshold, NEVER, self._max_window())

    def _verify(self) -> Decision:
        self._asked_confidence = max(_LEAST_CONFIDENCE, self._window.confidence)
        return super()._verify()


def _clamp(threshold: float) -> float:
    return min(1.0 - _LEAST_THRESHOLD, max(_LEAST_THRESHOLD, threshold))
