"""Simulated time. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["Events"]

Action = Callable[[], None]


class Events:
    """Things that happen at their times; `now_s` is a clock for whatever wants one."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._num = 0
        self._waiting: list[tuple[float, int, Action]] = []

    def clock(self) -> float:
        return self.now_s

    def at(self, time_s: float, action: Action) -> None:
        """`action` is called at `time_s`, or now if that is over; in order where times are equal."""
        self._num += 1
        heapq.heappush(self._waiting, (max(time_s, self.now_s), self._num, action))

    def after(self, delay_s: float, action: Action) -> None:
        self.at(self.now_s + delay_s, action)

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._waiting:
            self.now_s, _, action = heapq.heappop(self._waiting)
            action()
