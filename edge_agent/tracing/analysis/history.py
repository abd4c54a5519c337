"""What became of the drafts of one session: the outcome of a replay."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from edge_agent.tracing.events import Committed, Drafted, Opened, RolledBack, Sent

__all__ = ["Answer", "DraftRecord", "Fate", "History", "Upload"]


class Fate(enum.StrEnum):
    """What a draft was good for."""

    ACCEPTED = "accepted"
    """The target checked it and kept it, or its own token after the last one kept is the same."""
    REUSED = "reused"
    """As `ACCEPTED`, and drafted while an earlier draft was being checked."""
    REJECTED = "rejected"
    """The target checked it and refused it."""
    WASTED = "wasted"
    """Never checked: a rollback voided it, the target was there first, or the turn ended."""


@dataclass(slots=True, eq=False)
class DraftRecord:
    """One draft and what is known of it so far."""

    event: Drafted
    is_ahead: bool
    """Drafted, at least in part, while verification was awaited."""
    is_sent: bool = False
    trigger_s: float | None = None
    """When its verification was first asked for."""
    fate: Fate = Fate.WASTED


@dataclass(frozen=True, slots=True)
class Upload:
    """A `Draft` frame and the drafts in it."""

    event: Sent
    drafts: tuple[DraftRecord, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A `Commit` and what it meant. `kept[i]` is the draft behind `tokens[i]`, if it had a part in it."""

    event: Committed
    position: int
    """Of `tokens[0]`: what was known before is left out."""
    tokens: tuple[int, ...]
    kept: tuple[DraftRecord | None, ...]
    refused: tuple[DraftRecord, ...]
    asked_s: float | None
    """When what this answers was asked for: by a trigger or by opening the turn; None if unknown."""


@dataclass(slots=True)
class History:
    """One session as replayed. `waits`: from a trigger until nothing was awaited any more."""

    drafts: list[DraftRecord] = field(default_factory=list)
    openings: list[Opened] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    rollbacks: list[RolledBack] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
