"""Drafting for several sequences, without the thread that does it in the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from edge_agent.drafting import Drafted, DraftEvent, DraftingStopped, OnEvent, Rewound
from edge_agent.drafting.loop import Drafting
from edge_agent.errors import ModelError
from edge_agent.sampling import DraftToken
from edge_agent.testing import FakeDrafter

from ..conftest import VOCABULARY, target_next, target_text

PROMPT = [1, 2, 3]
MakeDrafter = Callable[..., FakeDrafter]


def deliver(on_event: OnEvent, event: DraftEvent) -> None:
    on_event(event)


def start(drafter: FakeDrafter) -> Drafting:
    """A clock that ticks once a reading, and events delivered at once."""
    ticks = count()
    return Drafting(drafter, lambda: float(next(ticks)), deliver)


def draft_all(drafting: Drafting) -> None:
    while wanted := drafting.wanted():
        drafting.draft(wanted)


def tokens(events: Sequence[DraftEvent]) -> list[int]:
    return [event.draft.token_id for event in events if isinstance(event, Drafted)]


def test_every_call_drafts_for_all_that_want(make_drafter: MakeDrafter) -> None:
    """One token a call for each sequence below its limit, with the call's times."""
    drafting = start(make_drafter())
    first: list[DraftEvent] = []
    second: list[DraftEvent] = []
    drafting.open(list(PROMPT), 5, first.append, None)
    drafting.open([4, 5], 3, second.append, None)
    draft_all(drafting)
    assert tokens(first) == target_text(PROMPT, 2)
    assert second == [Drafted(2, DraftToken(target_next([4, 5]), 0.95), 0.0, 1.0)]
    assert isinstance(first[1], Drafted)
    assert (first[1].started_s, first[1].ended_s) == (2.0, 3.0)


def test_commits_rewind_where_they_disagree(make_drafter: MakeDrafter) -> None:
    """Drafts that were right stay; from the first wrong one on they are taken back and made anew."""
    drafting = start(make_drafter(wrong_every=4))
    events: list[DraftEvent] = []
    number = drafting.open(list(PROMPT), 6, events.append, None)
    draft_all(drafting)
    truth = target_text(PROMPT, 2)
    assert tokens(events)[0] == truth[0]
    drafting.follow(number, 3, truth, 6)
    assert events[3:] == [Rewound(4)]
    drafting.follow(number, 3, truth, 6)
    assert len(events) == 4
    draft_all(drafting)
    assert [event.position for event in events[4:] if isinstance(event, Drafted)] == [5]


def test_what_is_closed_meanwhile_is_not_drafted_for(make_drafter: MakeDrafter) -> None:
    """Commands that came after the choice of sequences count; of a closed one nothing is heard any more."""
    drafting = start(make_drafter())
    events: list[DraftEvent] = []
    number = drafting.open(list(PROMPT), 8, events.append, None)
    wanted = drafting.wanted()
    drafting.close(number)
    drafting.draft(wanted)
    drafting.follow(number, 3, [9], 8)
    drafting.set_limit(number, 9)
    assert events == []
    assert drafting.wanted() == []


def test_exhausted_sequences_want_nothing(make_drafter: MakeDrafter) -> None:
    """A full context is no failure; `fail` is one for every open sequence."""
    drafting = start(make_drafter(context_length=4))
    full: list[DraftEvent] = []
    other: list[DraftEvent] = []
    number = drafting.open(list(PROMPT), 9, full.append, None)
    draft_all(drafting)
    assert full[-1] == DraftingStopped("the draft context is full")
    drafting.follow(number, 3, [9, 9, 9], 9)
    drafting.open([4], 9, other.append, None)
    drafting.fail("bug")
    assert other == [DraftingStopped("bug", failed=True)]
    assert drafting.wanted() == []


class Slow(FakeDrafter):
    """Is told to abort in the middle of each call; fails in the call after that."""

    def __init__(self) -> None:
        super().__init__(lambda tokens: DraftToken(target_next(tokens), 0.9), VOCABULARY)
        self.in_call: Callable[[], None] = lambda: None
        self.num_aborts = 0

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        self.in_call()
        if self.num_aborts:
            raise ModelError("NaN")
        return super().draft(sequences)

    def request_abort(self) -> None:
        self.num_aborts += 1


def test_a_call_is_cut_short_for_its_only_sequence() -> None:
    """Not between calls, and not when others would lose their drafts; a failing model is told to all."""
    drafter = Slow()
    drafting = start(drafter)
    events: list[DraftEvent] = []
    one = drafting.open(list(PROMPT), 9, events.append, None)
    two = drafting.open([4], 9, events.append, None)
    drafter.in_call = lambda: drafting.abort_call_for(one)
    drafting.abort_call_for(one)
    drafting.draft([one, two])
    assert drafter.num_aborts == 0
    drafting.draft([one])
    assert drafter.num_aborts == 1
    assert events[2:] == [DraftingStopped("NaN", failed=True)]
