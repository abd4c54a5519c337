"""Measures the scheduler hooks' part of `pipesd_own_seconds` (`api/metrics.py` has the whole)."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Clock", "Stopwatch"]

Clock = Callable[[], float]
"""Seconds, never going back."""


class Stopwatch:
    """Adds up the time spent in `with` blocks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._total_s = 0.0
        self._since_s = 0.0

    def __enter__(self) -> None:
        self._since_s = self._clock()

    def __exit__(self, *_: object) -> None:
        self._total_s += self._clock() - self._since_s

    def take(self) -> float:
        """The total in seconds since the last call."""
        total_s, self._total_s = self._total_s, 0.0
        return total_s
