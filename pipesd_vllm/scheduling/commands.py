"""What the session service tells the scheduler, carried in `SamplingParams.extra_args`.

vLLM hands every chunk of a resumable request to `Scheduler.add_request`; a chunk's
`extra_args["pipesd"]` is one of these commands. Draft tokens travel as the chunk's prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

EXTRA_ARGS_KEY: Final = "pipesd"


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The chunk's prompt starts a session. `eager`: decode without waiting for drafts.

    The prompt's last `num_committed` tokens were generated before (a session taken over).
    """

    eager: bool = False
    num_committed: int = 0


@dataclass(frozen=True, slots=True)
class AddDrafts:
    """The chunk's prompt are draft tokens (`protocol.Draft` has the fields' meaning)."""

    first: int
    base: int
    anchor: int
    verify: bool
    parents: list[int] | None


@dataclass(frozen=True, slots=True)
class GoAlone:
    """Decode without drafts until some arrive, if the frontier still is `frontier` (patience ran out)."""

    frontier: int


@dataclass(frozen=True, slots=True)
class Suspend:
    """Give up the KV blocks, keep the tokens."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """vLLM's own end-of-input marker; nothing to do, the abort ends the session."""


Command = OpenSession | AddDrafts | GoAlone | Suspend | CloseSession

_NAMES: Final[dict[str, type[Any]]] = {
    "open": OpenSession,
    "draft": AddDrafts,
    "alone": GoAlone,
    "suspend": Suspend,
    "close": CloseSession,
}
_TYPES: Final = {command: name for name, command in _NAMES.items()}


def pack(command: Command) -> dict[str, Any]:
    """`extra_args` that carry `command`, as bytes: no JSON request to vLLM itself can bring them."""
    fields = [getattr(command, name) for name in command.__slots__]
    return {EXTRA_ARGS_KEY: msgspec.msgpack.encode([_TYPES[type(command)], *fields])}


def unpack(extra_args: dict[str, Any] | None) -> Command | None:
    """The command in a request's `extra_args`; None for an ordinary request."""
    packed = (extra_args or {}).get(EXTRA_ARGS_KEY)
    if not isinstance(packed, bytes):
        return None
    name, *fields = msgspec.msgpack.decode(packed)
    command: Command = _NAMES[name](*fields)
    return command
