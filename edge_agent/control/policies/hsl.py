"""HSL: verify at the first uncertain token (baseline of the paper)."""

from __future__ import annotations

from edge_agent.control.policies.trigger import TriggerSettings
from edge_agent.control.policies.windowed import NEVER, IdlePolicy


class HslPolicy(IdlePolicy):
    """`P <= R2` alone; one upload; idle while waiting."""

    def _trigger_settings(self) -> TriggerSettings:
        return TriggerSettings(NEVER, self._parameters.token_threshold, self._max_window())
