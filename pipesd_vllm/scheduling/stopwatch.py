"""How long the plugin's own code takes of a verify round: `pipesd_own_seconds` on `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock", "OwnTime", "Stopwatch"]

Clock = Callable[[], float]
"""Seconds, never going back."""


@dataclass(frozen=True, slots=True)
class OwnTime:
    """Of the round that ends with one commit, what is known before the commit is sent. In seconds."""

    receive_s: float | None
    """From a draft frame's arrival to its command in vLLM's hands; None: no frame asked for this commit."""
    schedule_s: float
    """In the scheduler's hooks around the pass, for all sessions of the pass together."""
    output_s: float
    """When vLLM handed its output over, on the service's clock."""


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
        """The total in seconds since this was asked last."""
        total_s, self._total_s = self._total_s, 0.0
        return total_s
