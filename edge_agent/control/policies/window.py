"""The NAV window: the drafts since the last request to verify, and whether the next request is due. Pure.

NAV (non-autoregressive verification): one target pass checks several drafts (PipeSD, section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_agent.control.policies.base import ChainView

NEVER = 0.0
"""A threshold that no probability reaches."""


@dataclass(frozen=True, slots=True)
class TriggerSettings:
    """R1, R2 and a bound on the window, in tokens."""

    sequence_threshold: float
    """R1: verify when the product of the window's probabilities falls to this."""
    token_threshold: float
    """R2: verify when one token's probability falls to this."""
    max_window: int


class NavWindow:
    """One window of the NAV trigger, laid over the end of the draft chain.

    The draft right after a window that is being verified is a guess at the bonus token (section 4):
    the pass under way checks it, so it belongs to no window. Drafts that the server has committed
    without being asked leave the window.
    """

    def __init__(self, trigger: TriggerSettings) -> None:
        self.trigger = trigger
        """Set it to judge by other thresholds; the drafts already in the window are judged by them, too."""
        self._probabilities: list[float] = []
        self._bonus_is_next = False

    @property
    def due(self) -> bool:
        """The dual-threshold trigger: whether verification of this window is to be asked for."""
        return bool(self._probabilities) and (
            self.confidence <= self.trigger.sequence_threshold
            or min(self._probabilities) <= self.trigger.token_threshold
            or len(self._probabilities) >= self.trigger.max_window
        )

    @property
    def confidence(self) -> float:
        """C: product of the window's probabilities."""
        return math.prod(self._probabilities)

    @property
    def num_tokens(self) -> int:
        return len(self._probabilities)

    @property
    def num_left(self) -> int:
        """Drafts until the window is full; at least 1."""
        return max(1, self.trigger.max_window - len(self._probabilities))

    def observe(self, probability: float, view: ChainView) -> None:
        """Add the chain's newest draft, which `view` includes."""
        if self._bonus_is_next:
            self._bonus_is_next = False
            if view.awaiting_commit:
                return
        self.fit(view.num_drafted - 1)
        self._probabilities.append(probability)

    def fit(self, num_drafted: int) -> None:
        """Forget the oldest drafts of a window longer than the chain: the server has committed them."""
        del self._probabilities[: max(0, len(self._probabilities) - num_drafted)]

    def close(self) -> None:
        """Verification of the window was asked for; the next one begins."""
        self.void()
        self._bonus_is_next = True

    def void(self) -> None:
        """Forget all drafts: they were rolled back."""
        self._probabilities = []
        self._bonus_is_next = False

    def ahead(self, view: ChainView, max_ahead: int) -> int:
        """Most drafts beyond the frontier for a policy that drafts on while it waits (section 4).

        While verification is under way its commit moves the frontier. While none is, there is always room
        for another draft, and policies verify at `max_ahead`: a session that can draft never stalls,
        whatever commits, rollbacks and the tuner have done.
        """
        if view.awaiting_commit:
            return max_ahead
        if self.due:
            return view.num_drafted + 1
        return max(max_ahead, view.num_drafted + 1)
