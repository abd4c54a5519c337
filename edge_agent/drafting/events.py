"""What becomes of an open sequence while it is drafted for, event by event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.sampling.picker import DraftToken

__all__ = ["DraftEvent", "Drafted", "Exhausted", "OnEvent", "Rewound"]


@dataclass(frozen=True, slots=True)
class Drafted:
    """The sequence grew by one draft, at `position`; the model call for it ran from start to end."""

    position: int
    draft: DraftToken
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Rewound:
    """Drafts from `position` on were wrong and have been taken back; what follows builds on the truth."""

    position: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No more drafts will come: the draft context is full, or the model `failed`."""

    reason: str
    failed: bool = False


DraftEvent = Drafted | Rewound | Exhausted
OnEvent = Callable[[DraftEvent], None]
