"""Notices that what was tuned for has changed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DriftSettings", "DriftWatch"]


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """What counts as drift."""

    threshold: float = 0.2
    """Relative change of the cost, up or down."""
    num_windows: int = 3
    """So many windows in a row must be off, all to the same side."""


class DriftWatch:
    """Compares windows of traffic with a baseline: a given one, or the mean of the first windows.

    The measurements that made a point the best are no baseline: the best of many is a lucky one.
    """

    def __init__(self, settings: DriftSettings, baseline_ms: float | None = None) -> None:
        self.baseline_ms = baseline_ms
        self._settings = settings
        self._first_windows: list[float] = []
        self._num_off = 0
        """Windows in a row that were off: positive above the baseline, negative below."""

    def add(self, cost_ms: float) -> bool:
        """Take a window's cost; True: drifted, the baseline no longer holds."""
        if self.baseline_ms is None:
            self._first_windows.append(cost_ms)
            if len(self._first_windows) >= self._settings.num_windows:
                self.baseline_ms = sum(self._first_windows) / len(self._first_windows)
            return False
        change = cost_ms / self.baseline_ms - 1.0
        if abs(change) <= self._settings.threshold:
            self._num_off = 0
        elif change > 0.0:
            self._num_off = max(self._num_off, 0) + 1
        else:
            self._num_off = min(self._num_off, 0) - 1
        return abs(self._num_off) >= self._settings.num_windows
