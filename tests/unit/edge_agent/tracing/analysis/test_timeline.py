"""Sessions laid out as pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.tracing import (
    Committed,
    Drafted,
    MemoryRecorder,
    Opened,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
    TraceEvent,
)
from edge_agent.tracing.analysis.replay import Fate
from edge_agent.tracing.analysis.timeline import Bar, Kind, Lane, Timeline, Token, reconstruct

from .simulated import PROMPT_LEN, Link, Pipeline

KEPT = (Fate.ACCEPTED, Fate.REUSED)


def spans(timeline: Timeline, kind: Kind) -> list[tuple[float, float]]:
    """Milliseconds since the session began."""
    start_s = timeline.start_s
    return [
        (round((bar.start_s - start_s) * 1e3, 6), round((bar.end_s - start_s) * 1e3, 6))
        for bar in timeline.bars
        if bar.kind is kind
    ]


def tokens(timeline: Timeline, kind: Kind) -> list[list[tuple[int, Fate | None]]]:
    return [[(t.token_id, t.fate) for t in bar.tokens] for bar in timeline.bars if bar.kind is kind]


def test_the_example_by_hand_is_placed_on_one_clock(by_hand: list[TraceEvent]) -> None:
    """Round trips of 20 ms: 53 - 8 - 5 - 20, and 101 - 61 - 0 - 20; so 10 ms each way."""
    timeline = reconstruct(by_hand)
    assert timeline.round_trip_s == pytest.approx(0.020)
    assert spans(timeline, Kind.DRAFT)[:3] == [(0, 4), (4, 8), (8, 12)]
    assert spans(timeline, Kind.OPEN) == [(0, 10)]
    assert spans(timeline, Kind.UPLOAD) == [(8, 18), (61, 71)]
    assert spans(timeline, Kind.QUEUE) == [(18, 23)]
    assert spans(timeline, Kind.STEP) == [(23, 43), (71, 91)]
    assert spans(timeline, Kind.COMMIT) == [(43, 53), (91, 101)]
    assert (timeline.end_reason, timeline.end_s) == ("stop", 100.102)


def test_the_example_by_hand_shows_every_tokens_fate(by_hand: list[TraceEvent]) -> None:
    """A draft has one fate wherever it appears; a pass shows kept, refused and its own in this order."""
    timeline = reconstruct(by_hand)
    accepted, reused, rejected = Fate.ACCEPTED, Fate.REUSED, Fate.REJECTED
    assert tokens(timeline, Kind.UPLOAD) == [
        [(10, accepted), (11, accepted)],
        [(13, reused), (14, rejected), (15, rejected)],
    ]
    assert tokens(timeline, Kind.STEP)[1] == [(13, reused), (14, rejected), (15, rejected), (99, None)]
    assert tokens(timeline, Kind.COMMIT)[1] == [(13, reused), (99, None)]
    own = timeline.bars[-1].tokens[-1]
    assert own == Token(position=7, token_id=99, probability=None, fate=None)


def test_a_session_still_running_is_laid_out_so_far(by_hand: list[TraceEvent]) -> None:
    """Any beginning of a session, even one that lost its first line, makes a timeline."""
    for first in (0, 1, 2):
        for last in range(first + 1, len(by_hand)):
            assert reconstruct(by_hand[first:last]).end_reason == ""


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    window=st.integers(1, 8),
    max_ahead=st.integers(8, 24),
    accuracy=st.floats(0.3, 1.0),
    draft_ms=st.integers(2, 30),
    one_way_ms=st.integers(0, 80),
    queue_ms=st.integers(0, 30),
)
def test_simulated_sessions_are_reconstructed(
    seed: int, window: int, max_ahead: int, accuracy: float, draft_ms: int, one_way_ms: int, queue_ms: int
) -> None:
    """With a link of constant delay the passes are found where they were, and every token once."""
    link = Link(draft_ms / 1e3, one_way_ms / 1e3, queue_s=queue_ms / 1e3)
    recorder = MemoryRecorder()
    pipeline = Pipeline(40, window, max_ahead, accuracy, seed, link, recorder).run()
    timeline = reconstruct(recorder.events)
    assert timeline.round_trip_s == pytest.approx(2 * link.one_way_s, abs=1e-6)
    found = [time_s for bar in timeline.bars if bar.kind is Kind.STEP for time_s in (bar.start_s, bar.end_s)]
    known = [time_s for times in pipeline.steps for time_s in times][: len(found)]
    assert found == pytest.approx(known, abs=1e-6)
    check(timeline)
    positions = [t.position for bar in timeline.bars if bar.kind is Kind.COMMIT for t in bar.tokens]
    assert positions == list(range(PROMPT_LEN, PROMPT_LEN + len(positions)))
    num_accepted = sum(answer.event.num_accepted for answer in timeline.answers)
    num_rounds = sum(answer.event.num_verified > 0 for answer in timeline.answers)
    assert num_accepted <= len(kept_positions(timeline.bars)) <= num_accepted + num_rounds


times = st.floats(0.0, 2.0)
small = st.integers(0, 12)
ids = st.integers(0, 2)
any_event = st.one_of(
    st.builds(Opened, st.just(1), times, small),
    st.builds(Drafted, st.just(1), times, times, small, ids, st.floats(0, 1)),
    st.builds(Sent, st.just(1), times, small, small, small, st.booleans(), small),
    st.builds(
        Committed, st.just(1), times, small, st.lists(ids, max_size=4), ids, small, small,
        st.floats(0, 99), st.floats(0, 99), small,
    ),
    st.builds(RolledBack, st.just(1), times, small, small),
    st.builds(SessionEnded, st.just(1), times, st.just("stop")),
    st.builds(SessionStarted, st.just(1), times, st.just("r"), small, st.just(""), st.just("")),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(any_event, min_size=1, max_size=25))
def test_any_events_make_a_picture_that_can_be_drawn(events: list[TraceEvent]) -> None:
    """Whatever the file says: times run forward, bars share no track, a position is kept once at most."""
    check(reconstruct(events))


def check(timeline: Timeline) -> None:
    assert all(bar.start_s <= bar.end_s <= timeline.end_s for bar in timeline.bars)
    assert all(start_s <= end_s for start_s, end_s in timeline.waits)
    starts = [bar.start_s for bar in timeline.bars]
    assert starts == sorted(starts)
    for lane in Lane:
        tracks: dict[int, float] = {}
        for bar in (bar for bar in timeline.bars if bar.lane is lane):
            assert tracks.get(bar.track, float("-inf")) <= bar.start_s
            tracks[bar.track] = bar.end_s
        assert lane in (Lane.UPLINK, Lane.DOWNLINK) or set(tracks) <= {0}
    counts = Counter(kept_positions(timeline.bars))
    assert all(count == 1 for count in counts.values())


def kept_positions(bars: Sequence[Bar]) -> list[int]:
    """Positions of accepted and reused drafts in the edge's lane."""
    drafts = [bar.tokens[0] for bar in bars if bar.kind is Kind.DRAFT]
    return [draft.position for draft in drafts if draft.fate in KEPT]
