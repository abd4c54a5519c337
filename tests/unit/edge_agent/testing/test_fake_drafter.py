"""The fake keeps the Drafter contract that sessions rely on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from edge_agent.drafting import Drafter
from edge_agent.errors import DraftCapacityError
from edge_agent.sampling import DraftToken
from edge_agent.testing import FakeDrafter
from pipesd_vllm.wire import fingerprint

VOCABULARY = [f"t{token}" for token in range(100)]


def count_up(tokens: Sequence[int]) -> DraftToken:
    return DraftToken(tokens[-1] + 1, 0.5)


def test_it_is_a_drafter() -> None:
    """Code typed against the Protocol takes the fake, and its info and fingerprint are the vocabulary's."""
    drafter: Drafter = FakeDrafter(count_up, VOCABULARY, context_length=10, max_sequences=2)
    assert (drafter.info.num_tokens, drafter.info.context_length, drafter.info.max_sequences) == (100, 10, 2)
    assert drafter.fingerprint(7) == fingerprint(VOCABULARY[:7])
    assert drafter.fingerprint(1000) == fingerprint(VOCABULARY)


def test_drafting_appends_to_every_named_sequence() -> None:
    """Each call gives one token a sequence and the next call goes on from it."""
    drafter = FakeDrafter(count_up, VOCABULARY)
    one, two = drafter.open([1]), drafter.open([50, 60])
    assert drafter.draft([one, two]) == {one: DraftToken(2, 0.5), two: DraftToken(61, 0.5)}
    assert drafter.draft([one]) == {one: DraftToken(3, 0.5)}
    assert drafter.tokens(one) == (1, 2, 3)
    assert drafter.tokens(two) == (50, 60, 61)


def test_rewriting_replaces_the_tail() -> None:
    """After a rejection the sequence goes on from the committed tokens."""
    drafter = FakeDrafter(count_up, VOCABULARY)
    sequence = drafter.open([1, 2])
    drafter.draft([sequence])
    drafter.rewrite(sequence, 2, [70])
    assert drafter.draft([sequence]) == {sequence: DraftToken(71, 0.5)}


def test_long_prompts_take_several_calls_and_do_not_hold_up_the_others() -> None:
    """A sequence is missing from the result until its prompt is evaluated."""
    drafter = FakeDrafter(count_up, VOCABULARY, n_batch=4)
    short, long = drafter.open([1]), drafter.open([9] * 7)
    assert set(drafter.draft([short, long])) == {short}
    assert set(drafter.draft([short, long])) == {short}
    assert set(drafter.draft([short, long])) == {short, long}


def test_a_closed_sequence_leaves_its_prefix() -> None:
    """The next turn evaluates only what is new."""
    drafter = FakeDrafter(count_up, VOCABULARY)
    drafter.draft([sequence := drafter.open([1, 2, 3])])
    drafter.close_sequence(sequence)
    drafter.draft([drafter.open([1, 2, 3, 4, 5])])
    assert drafter.evaluated_tokens == 3 + 2


def test_capacity_is_honoured() -> None:
    """A full sequence is missing from the result, and what does not fit raises and changes nothing."""
    drafter = FakeDrafter(count_up, VOCABULARY, context_length=4, max_sequences=1)
    sequence = drafter.open([1, 2, 3])
    assert drafter.room(sequence) == 1
    assert drafter.draft([sequence])
    assert drafter.room(sequence) == 0
    assert drafter.draft([sequence]) == {}
    with pytest.raises(DraftCapacityError):
        drafter.rewrite(sequence, 3, [8, 9])
    with pytest.raises(DraftCapacityError):
        drafter.open([1])
    assert drafter.tokens(sequence) == (1, 2, 3, 4)


def test_closed_sequences_give_up_their_cells() -> None:
    """A new sequence may use all the cells that only closed ones hold."""
    drafter = FakeDrafter(count_up, VOCABULARY, context_length=8, max_sequences=2, num_cells=8)
    drafter.draft([old := drafter.open([1] * 6)])
    drafter.close_sequence(old)
    sequence = drafter.open([2] * 7)
    assert drafter.draft([sequence]) == {sequence: DraftToken(3, 0.5)}


def test_an_abort_ends_a_running_call_and_leaves_the_tokens_pending() -> None:
    """The call does not sit out its hour, and what was interrupted stays."""
    drafter = FakeDrafter(count_up, VOCABULARY, sleep_s=3600.0)
    sequence = drafter.open([1])
    threading.Timer(0.02, drafter.request_abort).start()
    assert drafter.draft([sequence]) == {}
    assert drafter.tokens(sequence) == (1,)
    assert drafter.evaluated_tokens == 0


def test_a_call_takes_the_time_it_is_told_to() -> None:
    """`sleep_s` stands for the model's own time, and is not spent when there is nothing to draft."""
    assert FakeDrafter(count_up, VOCABULARY, sleep_s=3600.0).draft([]) == {}
    drafter = FakeDrafter(count_up, VOCABULARY, sleep_s=0.03)
    began = time.monotonic()
    drafter.draft([drafter.open([1])])
    assert time.monotonic() - began >= 0.03


def test_closing_is_idempotent() -> None:
    """A second close is harmless."""
    drafter = FakeDrafter(count_up, VOCABULARY)
    drafter.close()
    drafter.close()
    assert drafter.closed
