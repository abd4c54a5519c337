"""Where a sequence starts; `test_sequences.py` has what follows for the table."""

import pytest

from edge_agent.drafting.llama.slots import OpenPlan, Slot, choose_slot, eviction_candidate


def slot(*tokens: int, is_open: bool = False, last_used: int = 0) -> Slot:
    """All its tokens are evaluated, in cells that are named like them."""
    return Slot(list(tokens), last_used, list(tokens), is_open)


@pytest.mark.parametrize(
    ("slots", "tokens", "plan"),
    [
        ([slot(), slot(1, 2, 3)], [1, 2, 3, 4], OpenPlan(1, 3)),
        ([slot(), slot(1, 2, 3)], [1, 2, 3], OpenPlan(1, 2)),
        ([slot(), slot(1, 2, 3, 4, 5)], [1, 2, 9], OpenPlan(0, 2, copy_from=1)),
        ([slot(1, 2, 3, 4, 5), slot(1, is_open=True)], [1, 2, 9], OpenPlan(0, 2)),
        ([slot(1, 2, is_open=True), slot(7)], [1, 2, 3], OpenPlan(1, 2, copy_from=0)),
        ([slot(1, 2, is_open=True), slot(1, 2)], [1, 2, 3], OpenPlan(1, 2)),
        ([slot(1, last_used=2), slot(2, last_used=1)], [3], OpenPlan(1, 0)),
    ],
    ids=["goes on", "last token anew", "copied", "no other slot", "from an open one", "closed first", "new"],
)
def test_the_most_work_is_saved(slots: list[Slot], tokens: list[int], plan: OpenPlan) -> None:
    """In place where that loses no more than half, else by a copy; the source of a copy survives."""
    assert choose_slot(slots, tokens) == plan
    assert plan.source == (plan.slot if plan.copy_from is None else plan.copy_from)


def test_the_eviction_candidate() -> None:
    """Empty slots before full ones, the longest unused first."""
    assert eviction_candidate([slot(1, last_used=1), slot(last_used=9)], [0, 1]) == 1
    assert eviction_candidate([slot(1, last_used=3), slot(2, last_used=2)], [0, 1]) == 1
