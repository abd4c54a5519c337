"""Bugs planted in the product's code, in memory: does the judge notice them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import msgspec

from pipesd_vllm.launch.boot import boot

boot()  # before anything imports vLLM, as `pipesd serve` does it

# ruff: noqa: E402

from edge_agent import agent as edge
from edge_agent.api import GenerationChunk, GenerationRequest, Route, Source
from edge_agent.drafting import DraftHandle
from edge_agent.drafting.loop import Drafting
from edge_agent.errors import CloudUnreachable
from edge_agent.session import exchange as edge_exchange
from edge_agent.session import local as local_route
from edge_agent.session import session as edge_session
from edge_agent.session import turn as edge_turn
from edge_agent.session import without_verifier
from edge_agent.session.chain import DraftChain
from edge_agent.session.session import CollaborativeSession
from edge_agent.session.stream_drafts import StreamDrafts
from edge_agent.verifier import connection as edge_connection
from edge_agent.verifier.connection import CloudConnection, ConnectionPool
from edge_agent.verifier.keepalive import Keepalive
from edge_agent.verifier.retry import RetryPolicy
from pipesd_vllm.api import turn as server_turn
from pipesd_vllm.api.tenant import OpenConnections
from pipesd_vllm.scheduling.engine_session import EngineSession
from pipesd_vllm.scheduling.scheduler import SchedulesSessions
from pipesd_vllm.scheduling.sessions import Sessions
from pipesd_vllm.scheduling.trie import DraftTrie
from pipesd_vllm.wire import Open, Resume

__all__ = ["PLANTED", "PlantedBug"]

Change = tuple[object, str, object]
"""Where, the attribute's name, what stands there instead."""


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """A mistake that can be made in the product for the time of a `with` block."""

    name: str
    what: str
    """One sentence: what the product does wrong then."""
    changes: tuple[Change, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The product has this bug inside the block."""
        with ExitStack() as stack:
            for owner, name, value in self.changes:
                stack.enter_context(patch.object(owner, name, value))
            yield


def _nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""


async def _nothing_async(*_: Any, **__: Any) -> None:
    """Does nothing."""


def _wrapped(owner: type, name: str, wrapper: Callable[..., Any]) -> Change:
    """`wrapper(real, self, *arguments)` in place of the method."""
    real = getattr(owner, name)

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        return wrapper(real, self, *arguments, **named)

    return owner, name, method


def _deaf(real: Callable[..., None], self: Keepalive, *_: Any, **__: Any) -> None:
    real(self, silence_s=1e7)


def _goes_on_ignoring(_: Callable[..., None], self: Any) -> None:
    self._valid_from = 1 << 30


def _forgets_committed(**fields: Any) -> Open:
    return Open(**{**fields, "committed": []})


def _committed_as_prompt(**fields: Any) -> Open:
    return Open(**{**fields, "prompt": [*fields["prompt"], *fields["committed"]], "committed": []})


def _forgets_delivered(prompt: Any, streams: Any, _: Any, *rest: Any) -> Resume:
    return Resume(prompt, streams, [], *rest)


def _one_too_many(
    real: Callable[..., None], self: EngineSession, tokens: Sequence[int], now_s: float
) -> None:
    real(self, tokens, now_s)
    self.report.accepted += 1


def _without_flag(real: Callable[..., Any], self: DraftChain, turn: int, *, verify: bool, **told: Any) -> Any:
    frame = real(self, turn, verify=verify, **told)
    return frame if frame is None else msgspec.structs.replace(frame, verify=False)


async def _unclosed(real: Callable[..., Any], self: ConnectionPool) -> None:
    self._idle = []


def _verified_anyway(tokens: Any, reason: Any, stats: Any, sources: Any = ()) -> Any:
    stats.unverified_tokens = 0
    stats.route = Route.COLLABORATIVE
    return GenerationChunk(tokens, reason, stats, (Source.DRAFTED,) * len(tokens))


def _from_scratch(request: GenerationRequest, _: Sequence[int]) -> GenerationRequest:
    return without_verifier(request, ())


def _keeps_rejected(real: Callable[..., None], self: DraftTrie, tokens: Sequence[int]) -> None:
    """The root's children stay, whatever was committed."""
    for token in tokens:
        children = self._root.children
        real(self, [token])
        self._root.children = self._root.children or {k: n for k, n in children.items() if k != token}


def _shown_twice(real: Callable[..., Any], self: Any, received: Any, outcome: Any) -> Any:
    """A chunk that repeats the newest token whenever drafts were refuted by a commit after a resume."""
    chunk = real(self, received, outcome)
    if received.opening < 2 or not outcome.rejected:
        return chunk
    again = chunk.token_ids[-1:]
    return GenerationChunk(
        chunk.token_ids + again, chunk.finish_reason, chunk.stats, chunk.sources + chunk.sources[-1:]
    )


PLANTED: Final[tuple[PlantedBug, ...]] = (
    # Of the trial; text and end alone showed two of them. Its seventh, events of an earlier opening that
    # still count, costs an opening more at most, which no limit forbids: a unit test of the session holds it.
    PlantedBug(
        "sent-to-the-lost",
        "Drafts sent on a lost connection are taken for sent on the new one.",
        ((DraftChain, "restart", _nothing),),
    ),
    PlantedBug(
        "session-kept", "The scheduler does not forget ended sessions.", ((Sessions, "forget", _nothing),)
    ),
    PlantedBug(
        "deaf-keepalive",
        "The edge does not ask whether a silent connection is alive.",
        (_wrapped(Keepalive, "__init__", _deaf),),
    ),
    PlantedBug(
        "ignores-drafts",
        "After a rejection the edge ignores its own drafts for good.",
        (_wrapped(StreamDrafts, "_ignore_drafts", _goes_on_ignoring),),
    ),
    PlantedBug(
        "hangs-from-root",
        "A frame of drafts hangs from the frontier, wherever it belongs.",
        ((DraftTrie, "_origin", lambda self, base, anchor: self._root),),
    ),
    PlantedBug(
        "draft-sequence-kept", "Draft sequences are never closed.", ((DraftHandle, "close", _nothing),)
    ),
    # Mixed, lost and doubled text.
    PlantedBug(
        "any-target",
        "An answer goes on with whatever target is there.",
        ((edge_connection, "check_same_target", _nothing),),
    ),
    PlantedBug(
        "shown-twice",
        "A token is shown twice when a resumed turn refutes drafts.",
        (_wrapped(CollaborativeSession, "_chunk", _shown_twice),),
    ),
    PlantedBug(
        "committed-as-prompt",
        "A resumed turn counts what was generated as prompt.",
        ((edge_exchange, "Open", _committed_as_prompt),),
    ),
    PlantedBug(
        "delivered-again",
        "An answer of the server's API that is taken over begins anew for the client.",
        ((edge_exchange, "Resume", _forgets_delivered),),
    ),
    PlantedBug(
        "verified-anyway",
        "The draft model's own tokens are not marked.",
        ((local_route, "GenerationChunk", _verified_anyway),),
    ),
    PlantedBug(
        "local-from-scratch",
        "The draft model begins the answer anew when the verifier is lost.",
        ((edge, "without_verifier", _from_scratch),),
    ),
    PlantedBug(
        "grammar-from-scratch",
        "A resumed turn's grammar does not know what was generated.",
        ((SchedulesSessions, "_advance_grammar", lambda self, request: True),),
    ),
    # Errors that the settings do not allow.
    PlantedBug(
        "overload-is-final",
        "An overloaded server ends the answer, whatever the fallback.",
        (
            (edge_turn, "TRANSIENT", (CloudUnreachable,)),
            (edge_session, "TRANSIENT", (CloudUnreachable,)),
            (edge, "TRANSIENT", (CloudUnreachable,)),
        ),
    ),
    PlantedBug("gives-up", "A lost turn is not opened again.", ((RetryPolicy, "delay_s", lambda *_: None),)),
    # Time, passes and figures.
    PlantedBug(
        "begins-anew",
        "A resumed turn does not tell what was generated: the target computes it again.",
        ((edge_exchange, "Open", _forgets_committed),),
    ),
    PlantedBug(
        "flag-lost",
        "The edge's wish to verify is not sent.",
        (_wrapped(DraftChain, "take_unsent", _without_flag),),
    ),
    PlantedBug(
        "endless-patience",
        "The server waits for drafts for ever in mode balanced.",
        ((server_turn.Turn, "_decode_alone", _nothing),),
    ),
    PlantedBug(
        "never-evicts",
        "Parked sessions keep seat and blocks while others wait.",
        ((SchedulesSessions, "_free_seats", _nothing),),
    ),
    PlantedBug(
        "counts-one-more",
        "The server reports an accepted draft too many a pass.",
        (_wrapped(EngineSession, "finish_pass", _one_too_many),),
    ),
    PlantedBug(
        "counts-replays",
        "A commit that comes twice is counted twice.",
        ((edge_session, "_is_replay", lambda commit, outcome: False),),
    ),
    PlantedBug(
        "never-rewinds",
        "The drafting thread does not take back refuted drafts.",
        ((Drafting, "follow", _nothing),),
    ),
    PlantedBug(
        "keeps-rejected",
        "The trie keeps siblings of what was committed.",
        (_wrapped(DraftTrie, "commit", _keeps_rejected),),
    ),
    # What is left over.
    PlantedBug(
        "lost-connection-kept",
        "The edge does not close a connection that it gives up.",
        ((CloudConnection, "close", _nothing_async),),
    ),
    PlantedBug(
        "connections-kept",
        "Idle connections are forgotten, not closed.",
        (_wrapped(ConnectionPool, "forget_idle", _unclosed),),
    ),
    PlantedBug(
        "connection-counted",
        "A connection that has ended still counts for the limit.",
        ((OpenConnections, "leave", _nothing),),
    ),
)
