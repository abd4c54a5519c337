"""The events of an open sequence: what the drafting thread tells the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.sampling import DraftToken

__all__ = ["DraftEvent", "Drafted", "DraftingStopped", "OnEvent", "Rewound"]


@dataclass(frozen=True, slots=True)
class Drafted:
    """The sequence grew by one draft, at `position`; the model call for it ran from start to end."""

    position: int
    draft: DraftToken
    started_s: float
    ended_s: float
    num_followed: int = 0
    """How many calls of `DraftHandle.follow` the model had heard of before."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """Drafts from `position` on are dropped; later ones build on what the model was told to follow."""

    position: int


@dataclass(frozen=True, slots=True)
class DraftingStopped:
    """No more drafts will come: the draft context is full, or the model or picker `failed`."""

    reason: str
    failed: bool = False


DraftEvent = Drafted | Rewound | DraftingStopped
OnEvent = Callable[[DraftEvent], None]
