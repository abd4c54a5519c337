"""When an edge's next drafts are due, and whether a step is worth waiting for them. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["EdgePace"]

_REMEMBERED: Final = 64
"""Passes whose ends are known: those within a round trip."""
_GAIN: Final = 0.125
_DEVIATION_GAIN: Final = 0.25
"""Of delay and deviation, as in RFC 6298."""
_LEAST_GRACE_S: Final = 0.001
"""Drafts are awaited for so long beyond the time when they were due."""
_HALF_LIFE: Final = 24.0
"""Tokens after which a session's speed counts half."""
_LEAST_SAVING: Final = 0.05
"""What drafts must save of a step a token for steps to wait for them."""


class EdgePace:
    """How an edge answers commits with drafts: the delay, and the session's speed. Times in seconds.

    Where a session decodes by itself, each pass that ends while drafts are on their way yields one token.
    Its pace is better than that: so the last of these passes is not worth its time if drafts are due soon.
    """

    def __init__(self) -> None:
        self._ended: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        """Frontiers that passes led to, and when."""
        self._delay_s: float | None = None
        self._deviation_s = 0.0
        self._due_s: float | None = None
        """When drafts are due; None: none are expected."""
        self._plain_s: float | None = None
        """What a pass without drafts takes."""
        self._num_tokens = 0.0
        self._elapsed_s = 0.0

    def on_pass(self, frontier: int, num_tokens: int, num_drafts: int, step_s: float, now_s: float) -> None:
        """A pass with `num_drafts` ended: it took `step_s` and led to `frontier` with `num_tokens` more."""
        if self._ended:
            fading = 0.5 ** (num_tokens / _HALF_LIFE)
            self._num_tokens = self._num_tokens * fading + num_tokens
            self._elapsed_s = self._elapsed_s * fading + now_s - self._ended[-1][1]
            if not num_drafts:
                plain_s = self._plain_s or step_s
                self._plain_s = plain_s + (step_s - plain_s) * _GAIN
        self._ended.append((frontier, now_s))

    def on_run_out(self, now_s: float) -> None:
        """A pass has left no drafts: the edge will answer its commit."""
        self._due_s = None if self._delay_s is None else now_s + self._delay_s

    def on_drafts(self, delay_s: float | None, right_until: int, *, fit: bool) -> None:
        """Drafts came `delay_s` after the commit that they answer; `fit`: they may still come true.

        If not, they were right up to position `right_until`: the edge has yet to hear of the token there.
        """
        if delay_s is not None:
            self._measure(delay_s)
        if fit:
            self._due_s = None
        elif self._delay_s is not None and (ended_s := self._end_of(right_until + 1)) is not None:
            self._due_s = ended_s + self._delay_s

    def expects(self, now_s: float) -> bool:
        """Whether drafts are on their way that are worth a wait."""
        if self._due_s is None or now_s >= self._due_s + _LEAST_GRACE_S + self._deviation_s:
            return False
        return self.saves

    @property
    def saves(self) -> bool:
        """Whether drafts save enough for steps to wait for them."""
        return self._plain_s is not None and self._saving_s > _LEAST_SAVING * self._plain_s

    def is_worth_waiting(self, now_s: float) -> bool:
        """Whether drafts are due so soon that a pass without them would cost more than it yields."""
        return self.expects(now_s) and self._due_s is not None and self._due_s - now_s < self._saving_s

    @property
    def _saving_s(self) -> float:
        """What a token takes less than in a pass of its own."""
        if self._plain_s is None or not self._num_tokens:
            return 0.0
        return self._plain_s - self._elapsed_s / self._num_tokens

    def _end_of(self, frontier: int) -> float | None:
        """When the text reached `frontier`; None: too long ago, or not yet."""
        return next((ended_s for reached, ended_s in self._ended if reached >= frontier), None)

    def _measure(self, delay_s: float) -> None:
        if self._delay_s is None:
            self._delay_s, self._deviation_s = delay_s, delay_s / 8
            return
        self._deviation_s += (abs(self._delay_s - delay_s) - self._deviation_s) * _DEVIATION_GAIN
        self._delay_s += (delay_s - self._delay_s) * _GAIN
