"""The table agrees with a naive model of a shared KV cache, and its choices save the most work."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.drafting.llama.slots import Chunk, OpenPlan, SequenceTable
from edge_agent.errors import DraftCapacityError

NUM_SLOTS = 3
NUM_CELLS = 24
CONTEXT_LENGTH = 16

token_lists = st.lists(st.integers(0, 2), max_size=CONTEXT_LENGTH + 2)
"""Three different tokens only, so that prefixes coincide often."""


class Cell:
    """One KV cell: what was evaluated at which position. Identity matters: copies share it."""

    def __init__(self, position: int, token: int) -> None:
        self.position = position
        self.token = token


@dataclass
class NaiveSlot:
    tokens: list[int] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    is_open: bool = False


class TableMachine(RuleBasedStateMachine):
    """Drives a table and, beside it, a cache of cells that does what the plans say."""

    @initialize()
    def start(self) -> None:
        self.table = SequenceTable(NUM_SLOTS, NUM_CELLS, CONTEXT_LENGTH)
        self.slots = [NaiveSlot() for _ in range(NUM_SLOTS)]

    def open_slots(self) -> list[int]:
        return [index for index, slot in enumerate(self.slots) if slot.is_open]

    def any_open(self) -> bool:
        return bool(self.open_slots())

    def demand(self) -> int:
        """Cells all open sequences need once everything pending is evaluated."""
        opened = [self.slots[index] for index in self.open_slots()]
        cells = {cell for slot in opened for cell in slot.cells}
        return len(cells) + sum(len(slot.tokens) - len(slot.cells) for slot in opened)

    @rule(tokens=token_lists)
    def open(self, tokens: list[int]) -> None:
        try:
            plan = self.table.plan_open(tokens)
        except ValueError:
            assert not tokens
            return
        except DraftCapacityError:
            assert len(tokens) > CONTEXT_LENGTH or self.demand() + len(tokens) > NUM_CELLS or self.all_open()
            return
        source = self.slots[plan.slot if plan.copy_from is None else plan.copy_from]
        slot = self.slots[plan.slot]
        assert not slot.is_open
        assert plan.keep < len(tokens)
        assert [cell.token for cell in source.cells[: plan.keep]] == tokens[: plan.keep]
        assert plan.keep == max(self.reusable(other, tokens) for other in self.slots)
        self.table.open(plan, tokens)
        slot.cells = source.cells[: plan.keep]
        slot.tokens = list(tokens)
        slot.is_open = True

    def all_open(self) -> bool:
        return len(self.open_slots()) == NUM_SLOTS

    @staticmethod
    def reusable(slot: NaiveSlot, tokens: list[int]) -> int:
        held = [cell.token for cell in slot.cells]
        lengths = range(min(len(held), len(tokens) - 1), 0, -1)
        return next((length for length in lengths if held[:length] == tokens[:length]), 0)

    @precondition(any_open)
    @rule(data=st.data(), tokens=token_lists)
    def rewrite(self, data: st.DataObject, tokens: list[int]) -> None:
        index = data.draw(st.sampled_from(self.open_slots()))
        slot = self.slots[index]
        length = data.draw(st.integers(0, len(slot.tokens)))
        before = (slot.tokens, slot.cells)
        new = slot.tokens[:length] + tokens
        slot.tokens, slot.cells = new, slot.cells[: max(0, min(length, len(new) - 1))]
        if new and len(new) <= CONTEXT_LENGTH and self.demand() <= NUM_CELLS:
            assert self.table.rewrite(index, length, tokens) == len(slot.cells)
            return
        slot.tokens, slot.cells = before
        with pytest.raises(DraftCapacityError if new else ValueError):
            self.table.rewrite(index, length, tokens)

    @precondition(any_open)
    @rule(data=st.data(), max_tokens=st.integers(1, 8))
    def draft(self, data: st.DataObject, max_tokens: int) -> None:
        named = data.draw(st.lists(st.sampled_from(self.open_slots()), max_size=NUM_SLOTS + 1))
        chunks = self.table.plan_batch(named, max_tokens)
        num_tokens = sum(len(chunk.tokens) for chunk in chunks)
        assert num_tokens <= max_tokens
        assert len({chunk.slot for chunk in chunks}) == len(chunks)
        while (victim := self.table.plan_eviction(num_tokens)) is not None:
            self.forget(victim, 0)
        assert self.table.num_free_cells >= num_tokens
        for chunk in chunks:
            self.evaluate(chunk, data.draw(st.integers(0, 9)))

    def evaluate(self, chunk: Chunk, token: int) -> None:
        slot = self.slots[chunk.slot]
        assert chunk.start == len(slot.cells)
        assert chunk.tokens
        assert list(chunk.tokens) == slot.tokens[chunk.start : chunk.start + len(chunk.tokens)]
        assert chunk.completes == (chunk.start + len(chunk.tokens) == len(slot.tokens))
        self.table.mark_evaluated(chunk)
        slot.cells = slot.cells + [Cell(chunk.start + i, token) for i, token in enumerate(chunk.tokens)]
        if chunk.completes:
            assert self.table.room(chunk.slot) > 0
            self.table.append(chunk.slot, token)
            slot.tokens = [*slot.tokens, token]

    @rule(data=st.data(), index=st.integers(0, NUM_SLOTS - 1))
    def lose_cells(self, data: st.DataObject, index: int) -> None:
        """A model whose memory cannot go back loses a sequence's cells at any time."""
        shared = any(
            set(self.slots[index].cells) & set(other.cells)
            for i, other in enumerate(self.slots)
            if i != index and other.is_open
        )
        if not shared:  # else open sequences would need more cells than there are
            self.forget(index, data.draw(st.integers(0, len(self.slots[index].cells))))

    def forget(self, index: int, length: int) -> None:
        self.table.truncate(index, length)
        slot = self.slots[index]
        slot.cells = slot.cells[:length]
        if not slot.is_open:
            slot.tokens = slot.tokens[:length]

    @precondition(any_open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self.open_slots()))
        self.table.close(index)
        slot = self.slots[index]
        slot.is_open = False
        slot.tokens = slot.tokens[: len(slot.cells)]

    @invariant()
    def agrees(self) -> None:
        cells = {cell for slot in self.slots for cell in slot.cells}
        assert self.table.num_free_cells == NUM_CELLS - len(cells) >= 0
        assert self.demand() <= NUM_CELLS
        for index, slot in enumerate(self.slots):
            assert self.table.num_evaluated(index) == len(slot.cells)
            assert [cell.token for cell in slot.cells] == slot.tokens[: len(slot.cells)]
            assert [cell.position for cell in slot.cells] == list(range(len(slot.cells)))
            if slot.is_open:
                assert self.table.tokens(index) == slot.tokens
                assert len(slot.cells) < len(slot.tokens) <= CONTEXT_LENGTH
                room = min(CONTEXT_LENGTH - len(slot.tokens), NUM_CELLS - self.demand())
                assert self.table.room(index) == room


TableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstNaiveModel = TableMachine.TestCase
"""Whatever is called, the table knows exactly what is evaluated, and never promises a cell twice."""


def evaluate(table: SequenceTable, slot: int) -> None:
    for chunk in table.plan_batch([slot], 1000):
        table.mark_evaluated(chunk)
        table.append(slot, 0)


def closed_sequence(table: SequenceTable, tokens: list[int]) -> int:
    """Evaluate `tokens` in a fresh sequence and close it."""
    slot = table.plan_open(tokens).slot
    table.open(table.plan_open(tokens), tokens)
    evaluate(table, slot)
    table.close(slot)
    return slot


def test_the_next_turn_continues_in_place() -> None:
    """A prompt that extends a closed conversation takes its slot and evaluates only what is new."""
    table = SequenceTable(3, 100, 50)
    slot = closed_sequence(table, [1, 2, 3, 4])
    assert table.plan_open([1, 2, 3, 4, 5, 6]) == OpenPlan(slot, 4)


def test_the_same_prompt_evaluates_its_last_token_again() -> None:
    """Logits come from evaluating a token, so one is always left to evaluate."""
    table = SequenceTable(3, 100, 50)
    slot = closed_sequence(table, [1, 2, 3, 4])
    assert table.plan_open([1, 2, 3, 4]) == OpenPlan(slot, 3)


def test_a_common_system_prompt_is_copied_so_that_both_conversations_survive() -> None:
    """A conversation that shares only a short prefix with a closed one does not destroy that."""
    table = SequenceTable(3, 100, 50)
    slot = closed_sequence(table, [1, 2, 3, 4, 5, 6, 7, 8])
    plan = table.plan_open([1, 2, 9])
    assert plan == OpenPlan(slot=1, keep=2, copy_from=slot)
    table.open(plan, [1, 2, 9])
    assert table.num_evaluated(slot) == 8
    assert table.num_free_cells == 100 - 8


def test_a_prefix_of_an_open_sequence_is_copied() -> None:
    """Parallel requests with one prompt evaluate it once."""
    table = SequenceTable(3, 100, 50)
    table.open(table.plan_open([1, 2, 3]), [1, 2, 3])
    evaluate(table, 0)
    assert table.plan_open([1, 2, 3]) == OpenPlan(slot=1, keep=2, copy_from=0)


def test_without_a_common_prefix_the_least_recently_used_slot_goes() -> None:
    """Empty slots first, then the one that was closed longest ago."""
    table = SequenceTable(2, 100, 50)
    assert closed_sequence(table, [1, 1]) == 0
    assert closed_sequence(table, [2, 2]) == 1
    assert closed_sequence(table, [1, 1, 1]) == 0
    assert table.plan_open([3]) == OpenPlan(1, 0)


def test_eviction_takes_the_least_recently_used_closed_slot_and_no_more_than_needed() -> None:
    """Open sequences and closed ones whose room is not needed keep their cells."""
    table = SequenceTable(3, 9, 9)
    table.open(table.plan_open([9, 9, 9]), [9, 9, 9])
    evaluate(table, 0)
    closed_sequence(table, [1, 1])
    closed_sequence(table, [2, 2])
    assert table.plan_eviction(2) is None
    assert table.plan_eviction(3) == 1
    table.truncate(1, 0)
    assert table.plan_eviction(3) is None
    assert table.plan_eviction(None) == 2
    table.truncate(2, 0)
    assert table.plan_eviction(9) is None


def test_short_sequences_come_first_in_a_batch_and_a_prompt_fills_the_rest() -> None:
    """A long prompt never keeps a sequence that already decodes out of a call."""
    table = SequenceTable(3, 100, 50)
    prompts = [[5] * 20, [1], [2]]
    for prompt in prompts:
        table.open(table.plan_open(prompt), prompt)
    assert table.plan_batch([0, 1, 2], 8) == [
        Chunk(1, 0, (1,), completes=True),
        Chunk(2, 0, (2,), completes=True),
        Chunk(0, 0, (5,) * 6, completes=False),
    ]


def test_the_last_free_cell_goes_to_one_sequence_only() -> None:
    """Two sequences in one call cannot both grow into the same cell."""
    table = SequenceTable(2, 5, 5)
    table.open(table.plan_open([1, 1]), [1, 1])
    table.open(table.plan_open([2, 2]), [2, 2])
    assert table.room(0) == table.room(1) == 1
    assert [chunk.slot for chunk in table.plan_batch([0, 1], 10)] == [0]


def test_dropping_shared_cells_makes_no_room() -> None:
    """Cells that another open sequence holds too are not counted as given back by a rewrite."""
    table = SequenceTable(2, 10, 10)
    table.open(table.plan_open([1, 2, 3, 4]), [1, 2, 3, 4])
    evaluate(table, 0)
    table.open(table.plan_open([1, 2, 3, 4, 5]), [1, 2, 3, 4, 5])
    assert table.room(1) == 10 - 6
    with pytest.raises(DraftCapacityError):
        table.rewrite(1, 0, [9] * 6)
    table.rewrite(1, 0, [9] * 5)
    table.close(0)
    table.rewrite(1, 0, [9] * 10)


@pytest.mark.parametrize("slot", [-1, 0, 2, 7])
def test_slots_that_are_not_open_are_refused(slot: int) -> None:
    """A stale or made-up handle is an error, not someone else's sequence."""
    table = SequenceTable(3, 100, 50)
    table.open(OpenPlan(1, 0), [1])
    for call in (table.room, table.close, table.tokens):
        with pytest.raises(ValueError, match="not open"):
            call(slot)
    with pytest.raises(ValueError, match="not open"):
        table.plan_batch([1, slot], 10)


def test_capacity_errors_say_what_to_do() -> None:
    """Too long, all in use, and no cells are three different sentences, each with advice."""
    table = SequenceTable(2, 10, 8)
    with pytest.raises(DraftCapacityError, match=r"9 tokens do not fit .* of 8: .* longer context"):
        table.plan_open([1] * 9)
    table.open(table.plan_open([1] * 6), [1] * 6)
    with pytest.raises(DraftCapacityError, match=r"room for 4 tokens, 5 are needed: wait"):
        table.plan_open([2] * 5)
    table.open(table.plan_open([2]), [2])
    with pytest.raises(DraftCapacityError, match=r"all 2 draft sequences are in use: wait"):
        table.plan_open([3])
