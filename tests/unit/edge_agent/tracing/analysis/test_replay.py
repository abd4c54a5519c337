"""What became of every draft."""

from __future__ import annotations

from edge_agent.tracing import (
    Committed,
    Drafted,
    Opened,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
    TraceEvent,
)
from edge_agent.tracing.analysis.replay import Fate, replay

START = SessionStarted(1, 0.0, "r", 3, "", "")


def drafted(position: int, token: int, t: float = 1.0) -> Drafted:
    return Drafted(1, t, t + 0.004, position, token, 0.9)


def sent(base: int, num_tokens: int, t: float = 2.0, *, verify: bool = True) -> Sent:
    return Sent(1, t, num_tokens, base, 1, verify, 30)


def committed(
    base: int, tokens: list[int], num_verified: int, num_accepted: int, t: float = 3.0
) -> Committed:
    return Committed(1, t, base, tokens, 1, num_verified, num_accepted, 0.0, 20.0, 30)


def fates(*events: TraceEvent) -> list[str]:
    return [str(draft.fate) for draft in replay([START, *events]).drafts]


def test_the_example_by_hand(by_hand: list[TraceEvent]) -> None:
    """All four fates in one session."""
    history = replay(by_hand)
    assert [(draft.event.token, draft.fate) for draft in history.drafts] == [
        (10, Fate.ACCEPTED),
        (11, Fate.ACCEPTED),
        (12, Fate.REUSED),
        (13, Fate.REUSED),
        (14, Fate.REJECTED),
        (15, Fate.REJECTED),
        (16, Fate.WASTED),
    ]
    assert history.waits == [(100.008, 100.053), (100.061, 100.101)]
    assert [answer.asked_s for answer in history.answers] == [100.008, 100.061]


def test_what_the_target_said_first_is_wasted() -> None:
    """A draft that the target came to alone, or that was made too late, saved nothing."""
    assert fates(drafted(3, 10), committed(3, [10], 0, 0)) == ["wasted"]
    assert fates(committed(3, [10], 0, 0), drafted(3, 10)) == ["wasted"]


def test_the_draft_behind_the_targets_own_token_counts() -> None:
    """After a chain that was kept whole, a draft like the target's next token carries the chain on."""
    assert fates(drafted(3, 10), sent(3, 1), drafted(4, 11), committed(3, [10, 11], 1, 1)) == [
        "accepted",
        "reused",
    ]


def test_only_what_was_checked_is_rejected() -> None:
    """Of a chain that is contradicted, the part the target did not look at is wasted."""
    chain = [drafted(3, 10), drafted(4, 11), sent(3, 2), drafted(5, 12)]
    assert fates(*chain, committed(3, [99], 2, 0)) == ["rejected", "rejected", "wasted"]
    assert fates(*chain, committed(3, [99], 1, 0)) == ["rejected", "wasted", "wasted"]
    assert fates(*chain, committed(3, [99], 0, 0)) == ["wasted", "wasted", "wasted"]


def test_drafts_on_a_refused_token_are_wasted_until_the_rollback() -> None:
    """Between contradiction and rollback even a draft that would fit is void."""
    events = [drafted(3, 10), sent(3, 1), committed(3, [99], 1, 0), drafted(4, 11)]
    after = [drafted(4, 11, 5.0), sent(4, 1, 6.0), committed(4, [11], 1, 1, 7.0)]
    assert fates(*events, RolledBack(1, 4.0, 3, 0), *after) == ["rejected", "wasted", "accepted"]


def test_a_late_draft_that_disagrees_is_stale_like_the_rest() -> None:
    """Drafts on top of one that the target had overtaken with another token are void."""
    events = [committed(3, [99], 0, 0), drafted(3, 10), drafted(4, 11), sent(4, 1)]
    assert fates(*events, committed(4, [11], 0, 0)) == ["wasted", "wasted"]


def test_a_replayed_commit_changes_nothing() -> None:
    """Tokens that were known are left out of the answer."""
    history = replay([START, committed(3, [10, 11], 0, 0), committed(3, [10, 11, 12], 0, 0)])
    assert [(answer.position, answer.tokens) for answer in history.answers] == [(3, (10, 11)), (5, (12,))]


def test_a_reopened_turn_awaits_nothing() -> None:
    """After `Opened` the server holds no drafts: what it refuses now it has not checked."""
    events = [drafted(3, 10), sent(3, 1), Opened(1, 2.5, 100), committed(3, [99], 1, 0)]
    history = replay([START, *events])
    assert history.waits == [(2.0, 2.5)]
    assert history.drafts[0].fate is Fate.WASTED


def test_the_end_ends_the_wait() -> None:
    """A trigger that is never answered is waited for until the session ends."""
    assert replay([START, drafted(3, 10), sent(3, 1), SessionEnded(1, 9.0, "gone")]).waits == [(2.0, 9.0)]


def test_a_gap_in_the_file_is_stepped_over() -> None:
    """Lost lines cost the drafts they were about, nothing else."""
    events = [drafted(3, 10), committed(7, [14], 0, 0), drafted(8, 15), sent(8, 1), committed(8, [15], 1, 1)]
    assert fates(*events) == ["wasted", "accepted"]
