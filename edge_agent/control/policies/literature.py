"""Vanilla speculative decoding: a fixed number of drafts a round (baseline of the paper)."""

from __future__ import annotations

from typing import Final

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.policies.trigger import TriggerSettings
from edge_agent.control.policies.windowed import NEVER, IdlePolicy

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
