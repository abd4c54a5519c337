"""Which slot of the KV cache a new sequence starts in: the one that saves the most work. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.drafting.llama.kv_cells import Slot
from pipesd_vllm.wire import common_prefix_length

__all__ = ["OpenPlan", "closed_slots", "least_value", "place"]


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


def closed_slots(slots: Sequence[Slot]) -> list[int]:
    """Indices of the slots that are not open."""
    return [index for index, slot in enumerate(slots) if not slot.is_open]


def place(slots: Sequence[Slot], tokens: Sequence[int]) -> OpenPlan:
    """The longest evaluated prefix of `tokens`, used in place or copied. At least one slot is closed.

    It is used where it lies if its slot is closed and loses no more than half of what it holds;
    otherwise it is copied (cells are shared, which costs nothing) into the least recently used closed slot.
    """
    closed = closed_slots(slots)
    prefixes = [common_prefix_length(slot.tokens[: len(slot.cells)], tokens) for slot in slots]
    source = max(range(len(slots)), key=lambda i: (prefixes[i], not slots[i].is_open))
    keep = min(prefixes[source], len(tokens) - 1)
    if keep == 0:
        return OpenPlan(least_value(slots, closed), 0)
    others = [index for index in closed if index != source]
    if source in closed and (2 * keep >= len(slots[source].cells) or not others):
        return OpenPlan(source, keep)
    return OpenPlan(least_value(slots, others), keep, source)


def least_value(slots: Sequence[Slot], closed: Sequence[int]) -> int:
    """The one of `closed` with which the least is lost: nothing, then what was used longest ago."""
    return min(closed, key=lambda index: (bool(slots[index].cells), slots[index].last_used))
