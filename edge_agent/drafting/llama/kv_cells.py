"""Who holds which cells of a KV cache, when sequences that began alike share them. No model, no I/O."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["KvCells", "Slot"]


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
        """The slot opens with the cells it holds."""
        slot.is_open = True
        self._held_open.update(slot.cells)

    def close(self, slot: Slot) -> None:
        """The slot closes and goes on holding its cells."""
        _release(self._held_open, slot.cells)
        slot.is_open = False

    def fill(self, slot: Slot, num_tokens: int) -> None:
        """The next `num_tokens` of the slot's tokens are evaluated, each into a fresh cell."""
        self.share(slot, [next(self._new_cell) for _ in range(num_tokens)])

    def share(self, slot: Slot, cells: Sequence[int]) -> None:
        """The slot holds `cells`, too, after those it holds already."""
        slot.cells.extend(cells)
        self._held.update(cells)
        if slot.is_open:
            self._held_open.update(cells)

    def drop(self, slot: Slot, keep: int) -> None:
        """The slot goes on holding its first `keep` cells only."""
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
