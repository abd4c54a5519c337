"""Arithmetic of intervals."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.tracing.analysis.timeline import assign_tracks, without_overlaps
from edge_agent.tracing.analysis.totals import covered_s

times = st.integers(0, 50).map(float)
intervals = st.lists(st.tuples(times, times).map(lambda pair: (min(pair), max(pair))), max_size=12)


@given(intervals)
def test_covered_seconds_count_once(several: list[tuple[float, float]]) -> None:
    """The covered time is the number of unit slots that lie in any interval."""
    slots = {slot for start, end in several for slot in range(int(start), int(end))}
    assert covered_s(several) == len(slots)


@given(intervals)
def test_tracks_keep_overlapping_intervals_apart(several: list[tuple[float, float]]) -> None:
    """Two intervals on one track share no time."""
    tracks = assign_tracks(several)
    for i, (start, end) in enumerate(several):
        for j, (other_start, other_end) in enumerate(several[:i]):
            assert tracks[i] != tracks[j] or end <= other_start or other_end <= start


@given(intervals)
def test_no_more_tracks_than_needed(several: list[tuple[float, float]]) -> None:
    """There are as many tracks as intervals go on at the same time, at most."""
    lasting = [(start, end) for start, end in several if start < end]
    tracks = assign_tracks(lasting)
    deepest = max(sum(a <= t < b for a, b in lasting) for t in range(51))
    assert max(tracks, default=0) <= max(0, deepest - 1)


@given(intervals)
def test_cut_intervals_follow_each_other(several: list[tuple[float, float]]) -> None:
    """None begins before the one before it ends, none grows, and those in order stay as they are."""
    cut = without_overlaps(several)
    ends = [float("-inf"), *(end for _, end in cut)]
    assert all(before <= start <= end for before, (start, end) in zip(ends, cut, strict=False))
    assert without_overlaps(cut) == cut
