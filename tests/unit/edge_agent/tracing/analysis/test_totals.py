"""The figures of a trace."""

from __future__ import annotations

import pytest

from edge_agent.tracing import SessionStarted, TraceEvent
from edge_agent.tracing.analysis.replay import Fate
from edge_agent.tracing.analysis.timeline import reconstruct
from edge_agent.tracing.analysis.totals import ACTIVITY_NAMES, Activity, combine, totals


def test_the_example_by_hand_adds_up(by_hand: list[TraceEvent]) -> None:
    """Counts and times of the session as computed with pencil and paper."""
    figures = totals(reconstruct(by_hand))
    assert (figures.num_tokens, figures.num_rounds, figures.num_passes) == (5, 2, 2)
    assert figures.tpt_ms == pytest.approx(101 / 5)
    assert figures.acceptance_rate == pytest.approx(3 / 5)
    assert figures.passes_per_token == pytest.approx(2 / 5)
    assert figures.fates == {Fate.ACCEPTED: 2, Fate.REUSED: 2, Fate.REJECTED: 2, Fate.WASTED: 1}
    assert figures.edge_idle == pytest.approx(1 - 28 / 102)
    assert figures.server_idle == pytest.approx(1 - 40 / 102)


def test_time_is_split_by_what_was_going_on(by_hand: list[TraceEvent]) -> None:
    """Busy times may overlap; what is alone does not."""
    spent = totals(reconstruct(by_hand)).spent
    busy_ms = {activity: round(spent[activity].busy_s * 1e3, 6) for activity in Activity}
    assert busy_ms == {
        Activity.DRAFTING: 28,
        Activity.UPLINK: 18 + 10,
        Activity.QUEUE: 5,
        Activity.STEP: 40,
        Activity.DOWNLINK: 20,
        Activity.WAITING: 45 - 8 + 40 - 4,
    }
    alone_ms = {activity: round(spent[activity].alone_s * 1e3, 6) for activity in Activity}
    assert alone_ms == {
        Activity.DRAFTING: 8,
        Activity.UPLINK: 2 + 6,
        Activity.QUEUE: 5,
        Activity.STEP: 40,
        Activity.DOWNLINK: 20,
        Activity.WAITING: 0,
    }


def test_nothing_divides_by_zero() -> None:
    """A session that never got anywhere has no rates."""
    figures = totals(reconstruct([SessionStarted(1, 5.0, "r", 3, "", "")]))
    assert (figures.tpt_ms, figures.acceptance_rate, figures.passes_per_token) == (None, None, None)
    assert (figures.edge_idle, figures.server_idle) == (None, None)


def test_sessions_add_up(by_hand: list[TraceEvent]) -> None:
    """Counts and times of two sessions are summed; rates are those of the sums."""
    one = totals(reconstruct(by_hand))
    two = combine([one, one])
    assert (two.num_sessions, two.num_tokens, two.fates[Fate.WASTED]) == (2, 10, 2)
    assert two.spent[Activity.STEP].busy_s == pytest.approx(0.080)
    assert two.tpt_ms == pytest.approx(one.tpt_ms)
    assert two.edge_idle == pytest.approx(one.edge_idle)


def test_every_activity_has_a_name() -> None:
    """Tables list the activities by name, in the order of a draft's way."""
    assert list(ACTIVITY_NAMES) == list(Activity)
