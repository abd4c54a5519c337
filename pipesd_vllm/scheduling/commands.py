"""What crosses the process boundary between the API server and the engine: commands in, pass reports out.

In: vLLM hands every chunk of a resumable request to `Scheduler.add_request`; `extra_args["pipesd"]` of a
chunk is one of the commands below, and draft tokens travel as the chunk's prompt. Out: an output's
`kv_transfer_params["pipesd"]` is the session's `PassReport`; the tokens are the output's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import msgspec

EXTRA_ARGS_KEY: Final = "pipesd"
REPORT_KEY: Final = "pipesd"


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Start a session with the chunk's prompt. `eager`: decode without waiting for drafts.

    `committed` are tokens that were generated before (a session taken over). The next two are those of a
    plain request, which vLLM takes with no resumable one: whether the thoughts are over already, and what
    the reasoning parser is made with. `tenant` names the sessions whose drafts are of one origin.
    """

    eager: bool = False
    committed: Sequence[int] = ()
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: dict[str, Any] | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class AddDrafts:
    """Add the chunk's prompt, which holds draft tokens, to the trie (`wire.Draft` explains the fields).

    `delay_s`: how long after the commit that they answer the drafts came; None: not known.
    """

    first: int
    base: int
    anchor: int
    verify: bool
    parents: list[int] | None
    confidences: bytes = b""
    delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class DecodeAlone:
    """Decode without drafts until some arrive; with `frontier` only if that is still the frontier."""

    frontier: int | None = None


@dataclass(frozen=True, slots=True)
class SetEager:
    """From now on decode without waiting for drafts, or wait."""

    eager: bool


@dataclass(frozen=True, slots=True)
class Suspend:
    """Give the KV blocks back, keep the tokens."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Mark the end of the input, as vLLM asks for; it changes nothing, the abort ends the session."""


Command = OpenSession | AddDrafts | DecodeAlone | SetEager | Suspend | CloseSession

_NAMES: Final[dict[str, type[Any]]] = {
    "open": OpenSession,
    "draft": AddDrafts,
    "alone": DecodeAlone,
    "eager": SetEager,
    "suspend": Suspend,
    "close": CloseSession,
}
_TYPES: Final = {command: name for name, command in _NAMES.items()}


def pack_command(command: Command) -> dict[str, Any]:
    """`extra_args` that carry `command`, as bytes: no JSON request to vLLM itself can bring them."""
    fields = [getattr(command, name) for name in command.__slots__]
    return {EXTRA_ARGS_KEY: msgspec.msgpack.encode([_TYPES[type(command)], *fields])}


def unpack_command(extra_args: dict[str, Any] | None) -> Command | None:
    """The command in a request's `extra_args`; None for an ordinary request."""
    packed = (extra_args or {}).get(EXTRA_ARGS_KEY)
    if not isinstance(packed, bytes):
        return None
    name, *fields = msgspec.msgpack.decode(packed)
    command: Command = _NAMES[name](*fields)
    return command


@dataclass(slots=True)
class PassReport:
    """A session's counters: totals since it began, so that a merged or lost output loses no count.

    `queue_ms` and `step_ms` are those of the last pass: how long released drafts waited for it to start, and
    how long it took from scheduling to its result. `overhead_ms` is what the scheduler's hooks took since the
    report before. `cap` is the most drafts of the session that a pass would check now; None: any number.
    `resumed` drafts were taken up again by the trie; `drafted` and `accepted` do not count them.
    The rest is the engine's: drafts of all sessions that the last step verified, seats taken, sessions that
    are parked.
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    queue_ms: float = 0.0
    step_ms: float = 0.0
    overhead_ms: float = 0.0
    cap: int | None = None
    step_drafts: int = 0
    seats_taken: int = 0
    parked: int = 0
    resumed: int = 0

    def pack(self) -> dict[str, Any]:
        """The report as an engine output's `kv_transfer_params`."""
        return {REPORT_KEY: list(astuple(self))}

    @staticmethod
    def unpack(params: dict[str, Any] | None) -> PassReport | None:
        """The report in `kv_transfer_params`; None if there is none."""
        packed = (params or {}).get(REPORT_KEY)
        return None if packed is None else PassReport(*packed)
