"""What a trace records, one JSON object a line. Times are seconds on the edge's monotonic clock.

Events of one session stand in the order in which the session loop took them, which is what decides
what a draft was good for; their times may run back a little (a draft is reported when it is ready).
Positions are absolute, prompt first, as in `pipesd_vllm.wire.protocol`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge_agent.api import Source
from pipesd_vllm.wire import Commit, Draft

__all__ = [
    "Committed",
    "Drafted",
    "Opened",
    "PromptKnown",
    "RolledBack",
    "Sent",
    "SessionEnded",
    "SessionStarted",
    "TraceEvent",
    "decode_event",
    "encode_event",
]


class _Event(msgspec.Struct, frozen=True, tag_field="event"):
    session: int
    """Number of the session within the file."""


class SessionStarted(_Event, frozen=True, tag="started"):
    """A generation began; nothing has been sent for it."""

    t: float
    request_id: str
    prompt_len: int
    policy: str
    mode: str


class PromptKnown(_Event, frozen=True, tag="prompt"):
    """The server has told the prompt of an answer that was asked for by a request's body."""

    t: float
    prompt_len: int


class Opened(_Event, frozen=True, tag="opened"):
    """The `Open` or `Ask` frame was handed to the connection: the server holds no drafts of this session now.

    Comes again when a turn is resumed or reopened.
    """

    t: float
    num_bytes: int


class Drafted(_Event, frozen=True, tag="drafted"):
    """The draft model made one token, or it was looked up; `t_start` is when the first call for it began.

    `taken`: it joined the session's drafts; what the model makes meanwhile after a void token does not.
    """

    t_start: float
    t_end: float
    position: int
    token: int
    probability: float
    source: Source = Source.DRAFTED
    taken: bool = True


class Sent(_Event, frozen=True, tag="sent"):
    """A `Draft` frame was handed to the connection: `num_tokens` drafts from position `base` on.

    `first_node` is the trie id of the first of them; `verify` is the NAV trigger.
    """

    t: float
    num_tokens: int
    base: int
    first_node: int
    verify: bool
    num_bytes: int

    @classmethod
    def of(cls, session: int, t: float, draft: Draft, num_bytes: int) -> Sent:
        return cls(session, t, len(draft.tokens), draft.base, draft.first, draft.verify, num_bytes)


class Committed(_Event, frozen=True, tag="committed"):
    """A `Commit` arrived: the target chose `tokens` for the positions from `base` on.

    In its `passes` forward passes `num_verified` drafts were checked and `num_accepted` of them kept.
    `queue_ms` and `step_ms` are the last pass's: how long it was waited for and how long it took.
    """

    t: float
    base: int
    tokens: list[int]
    passes: int
    num_verified: int
    num_accepted: int
    queue_ms: float
    step_ms: float
    num_bytes: int

    @classmethod
    def of(cls, session: int, t: float, commit: Commit, num_bytes: int) -> Committed:
        return cls(
            session,
            t,
            commit.base,
            commit.tokens,
            commit.passes,
            commit.drafted,
            commit.accepted,
            commit.queue_ms,
            commit.step_ms,
            num_bytes,
        )


class RolledBack(_Event, frozen=True, tag="rolled_back"):
    """The draft model took back its drafts from `position` on; later ones build on committed tokens.

    `num_discarded` of those taken back had reached the session.
    """

    t: float
    position: int
    num_discarded: int


class SessionEnded(_Event, frozen=True, tag="ended"):
    """The generation is over: a finish reason, or why it broke off."""

    t: float
    reason: str


TraceEvent = SessionStarted | PromptKnown | Opened | Drafted | Sent | Committed | RolledBack | SessionEnded

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[TraceEvent]] = msgspec.json.Decoder(TraceEvent)


def encode_event(event: TraceEvent) -> bytes:
    """One line of a trace file, newline included."""
    return _encoder.encode(event) + b"\n"


def decode_event(line: bytes) -> TraceEvent:
    """Inverse of `encode_event`. Raises `msgspec.DecodeError` for anything else."""
    return _decoder.decode(line)
