"""Slower edges."""

import math
import threading
import time
from collections.abc import Mapping, Sequence

from benchmarks.harness.pacing import PacedDrafter
from edge_agent.drafter import DraftToken
from edge_agent.fake_drafter import FakeDrafter


def fake() -> FakeDrafter:
    return FakeDrafter(lambda tokens: DraftToken(len(tokens), 0.5), [f"t{i}" for i in range(10)])


def test_a_draft_takes_at_least_gamma() -> None:
    """The drafts are the model's own, and not sooner than the pace allows."""
    paced = PacedDrafter(fake(), 0.03)
    sequence = paced.open([1, 2])
    started_s = time.monotonic()
    assert paced.draft([sequence]) == {sequence: DraftToken(2, 0.5)}
    assert time.monotonic() - started_s >= 0.03


def test_a_hung_edge_never_drafts() -> None:
    """An endless pace gives nothing, call after call, and leaves the sequence as it was."""
    paced = PacedDrafter(fake(), math.inf)
    sequence = paced.open([1, 2])
    assert [paced.draft([sequence]) for _ in range(2)] == [{}, {}]


def test_an_abort_ends_the_wait() -> None:
    """A call that is being held back returns with nothing when it is aborted."""
    paced = PacedDrafter(fake(), 60.0)
    sequence = paced.open([1, 2])
    timer = threading.Timer(0.05, paced.request_abort)
    timer.start()
    assert paced.draft([sequence]) == {}
    timer.join()


class _Sticky(FakeDrafter):
    """As llama.cpp: an abort that finds no call running ends the next one."""

    def __init__(self) -> None:
        super().__init__(lambda tokens: DraftToken(len(tokens), 0.5), [f"t{i}" for i in range(10)])
        self._sticks = False

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        aborted, self._sticks = self._sticks, False
        return {} if aborted else super().draft(sequences)

    def request_abort(self) -> None:
        self._sticks = True


def test_an_abort_in_the_wait_costs_the_next_draft_nothing() -> None:
    """The model, which was not at work, hears nothing of it: the next call drafts."""
    paced = PacedDrafter(_Sticky(), 0.02)
    sequence = paced.open([1, 2])
    paced.request_abort()
    assert paced.draft([sequence]) == {sequence: DraftToken(2, 0.5)}
