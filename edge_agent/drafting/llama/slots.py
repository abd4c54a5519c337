"""Bookkeeping of the token sequences that share one KV cache. No model, no I/O.

Each slot holds a list of tokens of which a prefix has been evaluated: one KV cell a token.
Slots whose sequences began with the same tokens can share cells. An open slot always has
at least one pending (not evaluated) token, because only evaluating a token yields the
logits for the next one. A closed slot keeps its evaluated prefix until someone needs the room.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edge_agent.errors import DraftCapacityError
from pipesd_vllm.wire import common_prefix_length

__all__ = ["Chunk", "KvCells", "OpenPlan", "SequenceTable", "Slot", "choose_slot", "eviction_candidate"]


@dataclass(slots=True)
class Slot:
    """One sequence: its tokens, of which a prefix is evaluated. `KvCells` alone changes the last three."""

    tokens: list[int] = field(default_factory=list)
    last_used: int = 0
    """Larger means later."""
    cells: list[int] = field(default_factory=list)
    """Identity of the KV cell of each evaluated token; slots that share a cell name the same one."""
    is_open: bool = False

    @property
    def num_pending(self) -> int:
        """Tokens that are not evaluated."""
        return len(self.tokens) - len(self.cells)


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """How to start a sequence: in `slot`, with its first `keep` tokens evaluated already.

    They are the slot's own, or those of slot `copy_from` if that is set; in that case
    whatever `slot` holds is dropped first.
    """

    slot: int
    keep: int
    copy_from: int | None = None

    @property
    def source(self) -> int:
        """The slot whose evaluated tokens are kept."""
        return self.slot if self.copy_from is None else self.copy_from


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pending tokens of one slot, to be evaluated at positions `start, start + 1, ...`.

    `completes`: nothing is pending after it, so the logits of its last token are wanted.
    """

    slot: int
    start: int
    tokens: tuple[int, ...]
    completes: bool


class SequenceTable:
    """`num_slots` sequences of up to `context_length` tokens in `num_cells` KV cells.

    Methods that change nothing are named `plan_...`. Slots are named by their index; naming
    one that is not open raises `ValueError`, as does a sequence without tokens.
    """

    def __init__(self, num_slots: int, num_cells: int, context_length: int) -> None:
        self._slots = [Slot() for _ in range(num_slots)]
        self._cells = KvCells(num_cells)
        self._context_length = context_length
        self._clock = itertools.count(1)

    def tokens(self, slot: int) -> Sequence[int]:
        """The tokens of an open slot. Not a copy: do not change, do not keep."""
        return self._open_slot(slot).tokens

    def num_evaluated(self, slot: int) -> int:
        """How many of the slot's tokens are in the KV cache. `slot` may be closed."""
        return len(self._slots[slot].cells)

    @property
    def num_free_cells(self) -> int:
        """Cells that hold nothing, not even a closed sequence."""
        return self._cells.num_free

    def room(self, slot: int) -> int:
        """How many more tokens the slot can hold, all closed slots given up for it."""
        return max(0, min(self._context_length - len(self._open_slot(slot).tokens), self._num_unclaimed))

    def plan_open(self, tokens: Sequence[int]) -> OpenPlan:
        """Choose the slot that saves the most work (`choose_slot`). Raises `DraftCapacityError`."""
        self._check_open(tokens)
        plan = choose_slot(self._slots, tokens)
        cells = self._slots[plan.source].cells[: plan.keep]
        claimed = len(tokens) - self._cells.num_open(cells)
        if claimed > self._num_unclaimed:
            raise DraftCapacityError(
                f"the open drafts leave room for {self._num_unclaimed} tokens, {claimed} are needed: "
                "wait for one to end, or give the draft model a larger context"
            )
        return plan

    def open(self, plan: OpenPlan, tokens: Sequence[int]) -> None:
        """Carry out a plan made for `tokens` since the last change of the table."""
        slot = self._slots[plan.slot]
        if plan.copy_from is not None:
            shared = self._slots[plan.copy_from].cells[: plan.keep]
            self._cells.drop(slot, 0)
            self._cells.share(slot, shared)
        self._cells.drop(slot, plan.keep)
        self._cells.open(slot)
        slot.tokens = list(tokens)

    def rewrite(self, slot: int, length: int, tokens: Sequence[int]) -> int:
        """Keep the first `length` tokens, append `tokens`; returns how many stay evaluated.

        Raises `DraftCapacityError` if the result does not fit; nothing is changed then.
        """
        entry = self._open_slot(slot)
        if not 0 <= length <= len(entry.tokens):
            raise ValueError(f"cannot keep {length} of {len(entry.tokens)} tokens")
        new_length = length + len(tokens)
        if new_length == 0:
            raise ValueError("a sequence needs at least one token")
        keep = min(len(entry.cells), length, new_length - 1)
        released = entry.num_pending + self._cells.num_open_once(entry.cells[keep:])
        if new_length > self._context_length or new_length - keep > self._num_unclaimed + released:
            raise DraftCapacityError(
                f"the draft context has no room for a sequence of {new_length} tokens: "
                "go on without drafts, or give the draft model a larger context"
            )
        self._cells.drop(entry, keep)
        entry.tokens[length:] = tokens
        return keep

    def append(self, slot: int, token: int) -> None:
        """Add a pending token. The caller has asked `room` or `plan_batch` before."""
        self._open_slot(slot).tokens.append(token)

    def close(self, slot: int) -> None:
        """Release the slot; its evaluated prefix stays until the room is needed."""
        entry = self._open_slot(slot)
        del entry.tokens[len(entry.cells) :]
        self._cells.close(entry)
        entry.last_used = next(self._clock)

    def plan_batch(self, slots: Iterable[int], max_tokens: int) -> list[Chunk]:
        """What one model call evaluates: up to `max_tokens` pending tokens, shortest sequences first.

        A long prompt thus fills what sequences that already decode leave free. Slots that
        could not hold one more token are left out; those that complete leave room for one each.
        """
        spare = self._num_unclaimed
        chunks = []
        for index in sorted(dict.fromkeys(slots), key=lambda index: self._open_slot(index).num_pending):
            slot = self._slots[index]
            if spare <= 0 or max_tokens <= 0 or len(slot.tokens) >= self._context_length:
                continue
            start = len(slot.cells)
            pending = tuple(slot.tokens[start : start + max_tokens])
            completes = start + len(pending) == len(slot.tokens)
            chunks.append(Chunk(index, start, pending, completes))
            max_tokens -= len(pending)
            spare -= completes
        return chunks

    def plan_eviction(self, num_cells: int | None) -> int | None:
        """The closed slot to `truncate` to 0 next so that `num_cells` get free (None: all that can).

        Returns None if enough are free or no closed slot holds any.
        """
        closed = [i for i in _closed_slots(self._slots) if self._slots[i].cells]
        if not closed or (num_cells is not None and self.num_free_cells >= num_cells):
            return None
        return eviction_candidate(self._slots, closed)

    def mark_evaluated(self, chunk: Chunk) -> None:
        """The tokens of `chunk` are in the KV cache now."""
        self._cells.fill(self._open_slot(chunk.slot), len(chunk.tokens))

    def truncate(self, slot: int, num_evaluated: int) -> None:
        """Only the first `num_evaluated` tokens are left in the KV cache.

        The rest becomes pending in an open slot and is forgotten in a closed one.
        """
        entry = self._slots[slot]
        self._cells.drop(entry, num_evaluated)
        if not entry.is_open:
            del entry.tokens[num_evaluated:]

    @property
    def _num_unclaimed(self) -> int:
        """Cells that no open sequence holds or will hold for its pending tokens."""
        pending = sum(slot.num_pending for slot in self._slots if slot.is_open)
        return self._cells.num_not_open - pending

    def _open_slot(self, slot: int) -> Slot:
        if not 0 <= slot < len(self._slots) or not self._slots[slot].is_open:
            raise ValueError(f"sequence {slot} is not open")
        return self._slots[slot]

    def _check_open(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a sequence needs at least one token")
        if len(tokens) > self._context_length:
            raise DraftCapacityError(
                f"{len(tokens)} tokens do not fit the draft model's context of {self._context_length}: "
                "go on without drafts, or use a draft model with a longer context"
            )
        if not _closed_slots(self._slots):
            raise DraftCapacityError(
                f"all {len(self._slots)} draft sequences are in use: wait for one to end, or allow more"
            )


def choose_slot(slots: Sequence[Slot], tokens: Sequence[int]) -> OpenPlan:
    """Start `tokens` from their longest evaluated prefix, in place or as a copy. At least one slot is closed.

    The prefix is used in place if its slot is closed and loses no more than half of what it holds;
    otherwise it is copied (cells are shared, which costs nothing) into the least recently used closed slot.
    """
    closed = _closed_slots(slots)
    prefixes = [common_prefix_length(slot.tokens[: len(slot.cells)], tokens) for slot in slots]
    source = max(range(len(slots)), key=lambda i: (prefixes[i], not slots[i].is_open))
    keep = min(prefixes[source], len(tokens) - 1)
    if keep == 0:
        return OpenPlan(eviction_candidate(slots, closed), 0)
    others = [index for index in closed if index != source]
    if source in closed and (2 * keep >= len(slots[source].cells) or not others):
        return OpenPlan(source, keep)
    return OpenPlan(eviction_candidate(slots, others), keep, source)


def eviction_candidate(slots: Sequence[Slot], closed: Sequence[int]) -> int:
    """The slot of `closed` to give up: one that holds nothing, else the least recently used."""
    return min(closed, key=lambda index: (bool(slots[index].cells), slots[index].last_used))


def _closed_slots(slots: Sequence[Slot]) -> list[int]:
    """Indices of the slots that are not open."""
    return [index for index, slot in enumerate(slots) if not slot.is_open]


class KvCells:
    """Counts who holds each of `num_cells` cells. A cell is free once no slot holds it, open or closed."""

    def __init__(self, num_cells: int) -> None:
        self._num_cells = num_cells
        self._held: Counter[int] = Counter()
        """How many slots hold each cell."""
        self._held_open: Counter[int] = Counter()
        """How many open slots hold each cell."""
        self._new_cell = itertools.count()

    @property
    def num_free(self) -> int:
        """Cells that hold nothing, not even a closed sequence."""
        return self._num_cells - len(self._held)

    @property
    def num_not_open(self) -> int:
        """Cells that no open slot holds."""
        return self._num_cells - len(self._held_open)

    def num_open(self, cells: Iterable[int]) -> int:
        """How many of `cells` an open slot holds."""
        return sum(cell in self._held_open for cell in cells)

    def num_open_once(self, cells: Iterable[int]) -> int:
        """How many of `cells` exactly one open slot holds."""
        return sum(self._held_open[cell] == 1 for cell in cells)

    def open(self, slot: Slot) -> None:
        """Open the slot with the cells it holds."""
        slot.is_open = True
        self._held_open.update(slot.cells)

    def close(self, slot: Slot) -> None:
        """Close the slot; it keeps its cells."""
        _release(self._held_open, slot.cells)
        slot.is_open = False

    def fill(self, slot: Slot, num_tokens: int) -> None:
        """The next `num_tokens` of the slot's tokens are evaluated, each into a fresh cell."""
        self.share(slot, [next(self._new_cell) for _ in range(num_tokens)])

    def share(self, slot: Slot, cells: Sequence[int]) -> None:
        """Add `cells` to those that the slot holds."""
        slot.cells.extend(cells)
        self._held.update(cells)
        if slot.is_open:
            self._held_open.update(cells)

    def drop(self, slot: Slot, keep: int) -> None:
        """Release all but the first `keep` cells of the slot."""
        dropped = slot.cells[keep:]
        del slot.cells[keep:]
        _release(self._held, dropped)
        if slot.is_open:
            _release(self._held_open, dropped)


def _release(counts: Counter[int], cells: Sequence[int]) -> None:
    for cell in cells:
        counts[cell] -= 1
        if not counts[cell]:
            del counts[cell]
