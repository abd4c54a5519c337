"""Replays one session's events as the session loop took them: what became of every draft. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_agent.api import Source
from edge_agent.tracing.events import (
    Committed,
    Drafted,
    Opened,
    PromptKnown,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
    TraceEvent,
)

__all__ = ["Answer", "DraftRecord", "Fate", "History", "Upload", "replay"]


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


def replay(events: Iterable[TraceEvent]) -> History:
    """Replay one session's events, in the order of the file. Tolerates gaps (lines that were lost)."""
    state = _Replay()
    for event in events:
        state.apply(event)
    return state.history


class _Replay:
    """Mirrors `CollaborativeSession` and `DraftChain`."""

    def __init__(self) -> None:
        self.history = History()
        self._committed: dict[int, int] = {}
        self._frontier = 0
        self._live: list[DraftRecord] = []
        """The chain beyond the frontier."""
        self._pending: list[Sent] = []
        """Triggers without an answer, oldest first."""
        self._stale = False
        """What is drafted builds on a token that the target refused."""
        self._opened_s: float | None = None
        self._answered_s = float("-inf")

    def apply(self, event: TraceEvent) -> None:
        match event:
            case SessionStarted(prompt_len=prompt_len) | PromptKnown(prompt_len=prompt_len):
                self._frontier = prompt_len
            case Opened():
                self._on_opened(event)
            case Drafted():
                self._on_drafted(event)
            case Sent():
                self._on_sent(event)
            case Committed():
                self._on_committed(event)
            case RolledBack():
                self.history.rollbacks.append(event)
                self._drop(event.position)
                self._stale = False
            case SessionEnded(t=now_s):
                self._settle(now_s, [])

    def _on_opened(self, event: Opened) -> None:
        self.history.openings.append(event)
        self._opened_s = event.t
        self._settle(event.t, [])
        for draft in self._live:
            draft.is_sent, draft.trigger_s = False, None

    def _on_drafted(self, event: Drafted) -> None:
        draft = DraftRecord(event, is_ahead=bool(self._pending) or event.t_start < self._answered_s)
        self.history.drafts.append(draft)
        if event.source is Source.LOOKED_UP:
            self._stale = False  # it builds on what is committed, whatever the model builds on
        if self._stale or not event.taken:
            return
        if event.position < self._frontier:
            self._stale = self._committed.get(event.position, event.token) != event.token
            return
        self._drop(event.position)
        if event.position == self._frontier + len(self._live):
            self._live.append(draft)

    def _on_sent(self, event: Sent) -> None:
        first = event.base - self._frontier
        drafts = self._live[max(0, first) : max(0, first + event.num_tokens)]
        for draft in drafts:
            draft.is_sent = True
        self.history.uploads.append(Upload(event, tuple(drafts)))
        if event.verify:
            self._pending.append(event)
            for draft in self._live:
                if draft.is_sent and draft.trigger_s is None:
                    draft.trigger_s = event.t

    def _on_committed(self, event: Committed) -> None:
        if event.base > self._frontier:  # the lines in between were lost
            self._frontier = event.base
            self._live.clear()
        asked_s = self._asked_s(event)
        position = self._frontier
        tokens = tuple(event.tokens[position - event.base :])
        kept: list[DraftRecord | None] = []
        refused: list[DraftRecord] = []
        for token in tokens:
            if self._live and self._live[0].event.token != token:
                refused += self._refuse(event)
            kept.append(self._keep(event) if self._live else None)
            self._committed[self._frontier] = token
            self._frontier += 1
        waiting = [sent for sent in self._pending if sent.base + sent.num_tokens > self._frontier]
        self._settle(event.t, waiting)
        self.history.answers.append(Answer(event, position, tokens, tuple(kept), tuple(refused), asked_s))

    def _asked_s(self, event: Committed) -> float | None:
        """To be asked before `event` changes the chain."""
        opened_s, self._opened_s = self._opened_s, None
        if not event.num_verified:
            return opened_s
        return self._live[0].trigger_s if self._live else None

    def _keep(self, event: Committed) -> DraftRecord | None:
        draft = self._live.pop(0)
        if not event.num_verified:
            return None  # the target came to the same token alone
        draft.fate = Fate.REUSED if draft.is_ahead else Fate.ACCEPTED
        return draft

    def _refuse(self, event: Committed) -> list[DraftRecord]:
        """The head of the chain is contradicted: what the target checked and did not keep, it refused."""
        sent = [draft for draft in self._live if draft.is_sent]
        refused = sent[: max(0, event.num_verified - event.num_accepted)]
        for draft in refused:
            draft.fate = Fate.REJECTED
        self._live.clear()
        self._stale = True
        self._settle(event.t, [])
        return refused

    def _drop(self, position: int) -> None:
        """Nothing drafted for `position` or later counts any more."""
        del self._live[max(0, position - self._frontier) :]

    def _settle(self, now_s: float, waiting: list[Sent]) -> None:
        """Only `waiting` triggers are without an answer now."""
        if len(waiting) < len(self._pending):
            self.history.waits.append((self._pending[0].t, now_s))
            self._answered_s = now_s
        self._pending = waiting
