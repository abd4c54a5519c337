"""The drafts since the last request to verify, and whether the next request is due. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_agent.control.policies.base import ChainView


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


class NavWindow:
    """One window of the NAV trigger (PipeSD, section 3.3), laid over the end of the draft chain.

    The draft right after a window that is being verified is a guess at the bonus token (section 4):
    the pass under way checks it, so it belongs to no window. Drafts that the server has committed
    without being asked leave the window.
    """

    def __init__(self, settings: TriggerSettings) -> None:
        self._settings = settings
        self._trigger = DualThresholdTrigger(settings)
        self._probabilities: list[float] = []
        self._bonus_is_next = False
        self.due = False
        """The trigger has fired and `close` was not called yet."""

    @property
    def num_tokens(self) -> int:
        return len(self._probabilities)

    @property
    def num_left(self) -> int:
        """Drafts until the window is full; at least 1."""
        return max(1, self._settings.max_window - len(self._probabilities))

    @property
    def confidence(self) -> float:
        """C: product of the window's probabilities."""
        return math.prod(self._probabilities)

    def observe(self, probability: float, view: ChainView) -> bool:
        """Take the chain's newest draft; returns `due`."""
        if self._bonus_is_next:
            self._bonus_is_next = False
            if view.awaiting_commit:
                return self.due
        self.fit(view.num_drafted - 1)
        self._probabilities.append(probability)
        if self._trigger.observe(probability):
            self.due = True
        return self.due

    def fit(self, num_drafted: int) -> None:
        """Forget the drafts of a window that is longer than the chain: the server has committed them."""
        if len(self._probabilities) > num_drafted:
            self._probabilities = self._probabilities[len(self._probabilities) - num_drafted :]
            self._replay()

    def close(self) -> None:
        """Verification of the window was asked for; the next one begins."""
        self.void()
        self._bonus_is_next = True

    def void(self) -> None:
        """The drafts are gone."""
        self._probabilities = []
        self._bonus_is_next = False
        self.due = False
        self._trigger.reset()

    def retune(self, settings: TriggerSettings) -> None:
        """Judge by other thresholds, the drafts already in the window included."""
        self._settings = settings
        self._replay()

    def _replay(self) -> None:
        self._trigger = DualThresholdTrigger(self._settings)
        self.due = sum(map(self._trigger.observe, self._probabilities)) > 0  # all of them, unlike any()
