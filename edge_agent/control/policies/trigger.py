"""When to ask for verification: the dual-threshold NAV trigger (PipeSD, section 3.3). Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TriggerSettings:
    """R1, R2 and a bound on the window, in tokens."""

    sequence_threshold: float
    """R1: verify when the product of the window's probabilities falls to this."""
    token_threshold: float
    """R2: verify when one token's probability falls to this."""
    max_window: int


class DualThresholdTrigger:
    """Counts one window: the drafts since the last verification request."""

    def __init__(self, settings: TriggerSettings) -> None:
        self._settings = settings
        self._sequence_confidence = 1.0
        self._num_tokens = 0

    def observe(self, probability: float) -> bool:
        """Take the next draft's probability; True fires the trigger and starts a new window."""
        self._sequence_confidence *= probability
        self._num_tokens += 1
        fired = (
            self._sequence_confidence <= self._settings.sequence_threshold
            or probability <= self._settings.token_threshold
            or self._num_tokens >= self._settings.max_window
        )
        if fired:
            self.reset()
        return fired

    def reset(self) -> None:
        """Start a new window."""
        self._sequence_confidence = 1.0
        self._num_tokens = 0
