"""Arithmetic of time intervals, `(start_s, end_s)` with `start_s <= end_s`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Interval", "assign_tracks", "covered_s", "without_overlaps"]

Interval = tuple[float, float]


def covered_s(intervals: Iterable[Interval]) -> float:
    """Seconds that lie in at least one interval."""
    total_s, reached_s = 0.0, float("-inf")
    for start_s, end_s in sorted(intervals):
        total_s += max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s


def assign_tracks(intervals: Sequence[Interval]) -> list[int]:
    """A track for each interval, so that none overlaps another on its track: the lowest that is free."""
    tracks = [0] * len(intervals)
    ends_s: list[float] = []
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i]):
        start_s, end_s = intervals[i]
        track = next((t for t, busy_until_s in enumerate(ends_s) if busy_until_s <= start_s), len(ends_s))
        ends_s[track : track + 1] = [end_s]
        tracks[i] = track
    return tracks


def without_overlaps(intervals: Iterable[Interval]) -> list[Interval]:
    """The same intervals, each cut to begin no earlier than the one before ends."""
    cut: list[Interval] = []
    reached_s = float("-inf")
    for start_s, end_s in intervals:
        begun_s = max(start_s, reached_s)
        reached_s = max(begun_s, end_s)
        cut.append((begun_s, reached_s))
    return cut
