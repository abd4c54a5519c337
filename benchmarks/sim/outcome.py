"""What came of a run: pure data for the judge and for tables.

`benchmarks.sim.world.run(plan: Plan, *, keep_events: bool = False) -> Outcome` runs a plan in the calling
thread, on a loop of its own, with garbage collection off; it raises nothing for what goes wrong inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.sim.log import Event
from benchmarks.sim.plan import Plan
from edge_agent.api import GenerationStats

__all__ = ["ChatOutcome", "Emitted", "End", "Leftovers", "Outcome", "Shown"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One token as the client got it."""

    position: int
    """In the answer, from 0."""
    token_id: int
    verified: bool
    """Marked as the target's own choice."""
    source: str
    """"drafted", "corrected" or "unverified" (`edge_agent.api.Source`); "" if the answer does not tell."""
    at_s: float
    """When it came."""


@dataclass(frozen=True, slots=True)
class End:
    """How a chat ended: exactly one of the fields is not None, or none (it never ended)."""

    finish_reason: str | None = None
    """The answer is whole: "stop", "length"."""
    error: str | None = None
    """Name of the typed error (`CloudUnreachable`, ...), or its type in the gateway's body."""
    message: str | None = None
    """Text of that error."""
    left: bool = False
    """The client went away (`Leave`, `EdgeCrash`)."""
    bug: str | None = None
    """An exception that is none of the product's own, or one after the end."""


@dataclass(slots=True)
class Shown:
    """One of the answers of a chat at the gateway (`Api.COMPLETIONS`, `Api.CHAT`)."""

    text: list[str] = field(default_factory=list)
    """Pieces of the SSE chunks, in order."""
    finish_reason: str | None = None


@dataclass(slots=True)
class ChatOutcome:
    """One chat. Times in virtual seconds."""

    prompt: tuple[int, ...] = ()
    """What the target got: for `Api.CHAT` with the chat template around the text."""
    tokens: list[Emitted] = field(default_factory=list)
    end: End = field(default_factory=End)
    route: str = ""
    """That of the last figures, and why."""
    route_reason: str = ""
    marked_verified: bool | None = None
    """What the answer says of itself as a whole; None: it said nothing."""
    targets: tuple[str, ...] = ()
    """Targets that the agent's turns were opened at, in order; repeats in a row are left out."""
    started_s: float = 0.0
    first_s: float | None = None
    ended_s: float | None = None
    stats: GenerationStats | None = None
    """The product's own figures, of the last chunk; None where the gateway stands between."""
    target_passes: int = 0
    """Counted in the engine: steps that this chat's requests took part in with a token of theirs."""
    shown: dict[int, Shown] = field(default_factory=dict)
    """By the number of the choice."""
    chunks: list[str] = field(default_factory=list)
    """The SSE events' data as they came, "[DONE]" among them."""

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def took_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.started_s


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What was still there after the world had settled; every number should be 0."""

    requests: int = 0
    """In the engines: vLLM's, frontend and scheduler."""
    sessions: int = 0
    """In the engines: ours."""
    kv_blocks: int = 0
    sequences: int = 0
    """Open in the draft models."""
    connections: int = 0
    """That servers count."""
    held_connections: int = 0
    """Of edges that had closed a minute before; servers close what stays idle for long."""
    transports: int = 0
    """Ends of TCP connections that nobody closed."""
    tasks: int = 0
    timers: int = 0
    names: tuple[str, ...] = ()
    """Of the tasks and timers left."""


@dataclass(slots=True)
class Outcome:
    """One run."""

    plan: Plan
    chats: list[ChatOutcome]
    leftovers: Leftovers
    problems: list[str] = field(default_factory=list)
    """Errors that reached the loop, dead engine cores, a deadlock, time that stands still."""
    log_hash: str = ""
    num_events: int = 0
    events: list[Event] = field(default_factory=list)
    """Only with `keep_events`."""
    virtual_s: float = 0.0
    """When the last chat ended."""
    cpu_s: float = 0.0
    """Not part of the hash."""
    steps: int = 0
    """Of all engines, those that computed something."""
    target_passes: int = 0
    bytes_up: int = 0
    """Written by all edges, without TCP's own headers."""
    bytes_down: int = 0
    preemptions: int = 0
