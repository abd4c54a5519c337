"""Cells that several sequences hold; `test_sequences.py` lays the whole beside a naive cache."""

from edge_agent.drafting.llama.slots import KvCells, Slot


def filled(cells: KvCells, num_tokens: int) -> Slot:
    """An open slot whose tokens are all evaluated."""
    slot = Slot(tokens=list(range(num_tokens)))
    cells.open(slot)
    cells.fill(slot, num_tokens)
    return slot


def test_shared_cells_count_once() -> None:
    """Sharing costs no cells; one is free again when its last holder drops it."""
    cells = KvCells(10)
    first, second = filled(cells, 4), Slot()
    cells.share(second, first.cells[:3])
    assert cells.num_free == 6
    cells.drop(first, 0)
    assert cells.num_free == 7
    cells.drop(second, 1)
    assert cells.num_free == 9


def test_closed_slots_hold_cells_that_are_to_be_had() -> None:
    """A closed slot's cells are not free, but nothing that is open stands in the way of taking them."""
    cells = KvCells(10)
    first, second = filled(cells, 4), Slot()
    cells.share(second, first.cells[:2])
    cells.close(first)
    assert (cells.num_free, cells.num_not_open) == (6, 10)
    cells.open(second)
    assert (cells.num_free, cells.num_not_open) == (6, 8)
    assert cells.num_open(first.cells) == 2


def test_what_one_open_slot_holds_alone() -> None:
    """Only those cells come free when it drops them, as far as open slots are concerned."""
    cells = KvCells(10)
    first, second = filled(cells, 4), Slot()
    cells.open(second)
    cells.share(second, first.cells[:3])
    assert cells.num_open_once(first.cells) == 1
    cells.drop(second, 2)
    assert cells.num_open_once(first.cells) == 2
