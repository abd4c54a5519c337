"""The drafts of one stream of an answer: who makes them, when they go up, what the server is told of them.

They come from the worker's thread and from what looks them up; both tell the session, in whose loop all
changes are made. Nothing of the answer waits for them: they join when they are ready. The streams of an
answer take turns at the draft model as different answers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edge_agent.api import GenerationStats
from edge_agent.control import CommitOutcome, Decision
from edge_agent.drafting import (
    Drafted,
    DraftingStopped,
    DraftSource,
    DraftSources,
    DraftWorker,
    GuardedSource,
    Rewound,
)
from edge_agent.sampling import DraftToken, Pickers
from edge_agent.session.attachment import Attached, AttachmentEvent, DraftAttachment
from edge_agent.session.control import SessionControl
from edge_agent.session.exchange import Stream
from edge_agent.session.turn import ReceivedCommit, SentFrame, Turn
from pipesd_vllm.wire import Control, Mode, Welcome

__all__ = ["DraftingEvent", "StreamDrafts"]

_LEASE: Final = 64
"""Committed tokens for which a stream keeps its place in the draft model while others wait for one."""
_FIRST_RETRY: Final = 16
"""Committed tokens after which drafts that stopped begin again; twice as many after each further stop."""
_MAX_STOPS: Final = 6
_PASSES_AHEAD: Final = 4
"""Passes that a run may fill: those that begin within a round trip find it on the server."""
_LEAST_RUN: Final = 4
"""Tokens that a run must have to continue drafts that are under way: a frame's header costs as much."""


@dataclass(frozen=True, slots=True)
class _TextRead:
    """`source` has read the first `length` tokens of prompt `number`."""

    number: int
    source: DraftSource
    length: int


@dataclass(frozen=True, slots=True)
class DraftingEvent:
    """Something that concerns the drafts of stream `stream` alone."""

    stream: int
    event: AttachmentEvent | _TextRead


class StreamDrafts:
    """Drafts for stream `number`, whose committed side is `stream`."""

    def __init__(
        self,
        number: int,
        stream: Stream,
        *,
        turn: Turn,
        control: SessionControl,
        stats: GenerationStats,
        clock: Callable[[], float],
        on_event: Callable[[DraftingEvent], None],
        worker: DraftWorker | None,
        pickers: Pickers,
        fits: Callable[[Welcome], bool],
        sources: DraftSources | None,
    ) -> None:
        """What is told to `on_event` comes back by `on_drafting`; the rest as for the session."""
        self._number = number
        self._stream = stream
        self._chain = stream.chain
        self._turn = turn
        self._control = control
        self._stats = stats
        self._clock = clock
        self._tell_loop: Callable[[AttachmentEvent | _TextRead], None] = lambda event: on_event(
            DraftingEvent(number, event)
        )
        self._worker = worker
        self._fits = fits
        self._sources = sources if control.looks_up else None
        self._lookup: GuardedSource | None = None
        self._reading: asyncio.Task[None] | None = None
        self._num_texts = 0
        """Prompts that lookup began with, or was ended after."""
        self._drafts = DraftAttachment(self._chain, worker, pickers, self._tell_loop)
        self._stance = control.stance
        """What the server was told."""
        self._is_unattended = False
        """The server waits for drafts as it is told, but none will come for a while: it was told so, too."""
        self._attach_at = 0
        """Length of the sequence from which on drafts may begin again after they stopped."""
        self._num_stops = 0
        self._cap: int | None = None
        """`Commit.cap` of the last commit."""
        self._worker_limit = 0
        """Length of the sequence up to which the worker was told to draft."""
        self._valid_from = 0
        """The worker's drafts count once it has heard of so many `DraftHandle.follow`: those made before
        build on a token that the chain does not have."""
        self._is_over = False
        self._ended_by = "left"

    # -- the turn -------------------------------------------------------------------------

    @property
    def control(self) -> SessionControl:
        return self._control

    def open(self) -> tuple[Mode, int]:
        """The turn is about to be opened, or opened again: the server's mode and patience for this stream."""
        self._stance, self._is_unattended = self._control.stance, False
        self._cap = None
        return self._stance.mode, self._stance.patience_ms

    async def opened(self, sent: SentFrame) -> None:
        """The turn was opened, or opened again, by `sent`."""
        self._control.on_opened(sent.sent_s, sent.num_bytes, self._stance)
        self._attach()
        if self._number and self._stance.mode is not Mode.LATENCY:
            await self._control_turn()  # the server begins streams other than the first in that mode
        if self._stream.takes_drafts and not self._drafts.is_wanted:
            await self._go_alone()

    async def begun(self, *, is_new: bool) -> None:
        """The server has the prompt: draft from it if it is a new one, or go on drafting."""
        if is_new:
            assert self._stream.request is not None
            self._control.trace.begun(self._clock(), len(self._stream.request.prompt_token_ids))
            self._drafts.detach()  # of another prompt, that of a server which was lost
            self._attach()
            self.begin_lookup()
        if self._stream.takes_drafts:
            await self.verify()
            if not self._drafts.is_wanted:
                await self._go_alone()

    async def verify(self) -> None:
        """Send what has been drafted."""
        await self._send_drafts(Decision.VERIFY)

    async def resume_alone(self) -> None:
        """The server waited for drafts long enough: it is to go on without, and take what there is."""
        await self._go_alone()
        await self.verify()

    async def on_commit(self, received: ReceivedCommit, outcome: CommitOutcome) -> None:
        """The chain has taken the commit; tell everybody else."""
        decision = self._follow_commit(received, outcome)
        if received.commit.finish_reason is None:
            await self._send_drafts(self._looked_up(decision))
            await self._follow_control()
        else:
            self._ended_by = received.commit.finish_reason
            self.end()

    async def on_drafting(self, event: AttachmentEvent | _TextRead) -> None:
        if isinstance(event, _TextRead):
            await self._on_text_read(event)
        else:
            await self._on_draft_event(self._drafts.take(event))

    def end(self) -> None:
        """Draft no more. Idempotent."""
        self._is_over = True
        self._chain.void()
        self._drafts.detach()
        self._end_lookup()

    def close(self, error: str | None) -> None:
        """The whole answer has ended, by `error` if there was one."""
        self.end()
        self._control.trace.ended(self._clock(), error or self._ended_by)

    # -- what an event changes ------------------------------------------------------------

    async def _on_draft_event(self, event: Drafted | Rewound | DraftingStopped | Attached | None) -> None:
        match event:
            case Drafted():
                await self._send_drafts(self._looked_up(self._on_drafted(event)))
            case Rewound(position):
                self._control.on_rewound(position)
            case Attached(handle):
                self._is_unattended = False  # its first drafts end the server's going alone
                missing = self._chain.tokens[handle.length :]
                missing += [draft.token_id for draft in self._chain.drafted]
                void = self._valid_from > 0
                handle.follow(handle.length, missing, self._new_worker_limit(), contradicts_drafts=void)
            case DraftingStopped():
                self._attach_at = self._chain.frontier + (_FIRST_RETRY << self._num_stops)
                self._num_stops = min(self._num_stops + 1, _MAX_STOPS)
                await self._go_alone()

    def _on_drafted(self, event: Drafted) -> Decision:
        is_valid = event.num_followed >= self._valid_from
        taken = is_valid and self._chain.append(event.position, event.draft)
        self._control.on_drafted(event, taken=taken)
        if taken:
            if self._lookup is not None:
                self._lookup.extend([event.draft.token_id])
            # The policy says when a batch is sent: by default control/policies/adaptive.py.
            return self._control.decide(event, self._chain.view())
        if is_valid and not self._chain.agrees_with_committed(event.position, event.draft.token_id):
            self._ignore_drafts()  # drafted before the commit was known
        elif is_valid and event.position > self._chain.length:
            self._follow_drafts(self._chain.length, [])  # some before it were ignored, and are to come again
        return Decision.KEEP

    def _ignore_drafts(self) -> None:
        """What the worker has drafted builds on a wrong token: wait until it has heard of the right one."""
        handle = self._drafts.handle
        self._valid_from = 1 if handle is None else handle.num_followed

    def _follow_drafts(self, position: int, tokens: Sequence[int]) -> None:
        """Have the worker draft after `tokens`, the end of the chain from `position` on, and nothing else."""
        if self._drafts.handle is not None:
            limit = self._new_worker_limit()
            self._drafts.handle.follow(position, tokens, limit, contradicts_drafts=True)
        self._ignore_drafts()

    def _follow_commit(self, received: ReceivedCommit, outcome: CommitOutcome) -> Decision:
        commit = received.commit
        self._cap = commit.cap
        decision = self._control.on_commit(
            received, outcome, self._chain.view(), is_drafting=self._drafts.handle is not None
        )
        if self._lookup is not None:
            self._lookup.follow(outcome.new_tokens)
        if self._drafts.handle is not None:
            limit = self._new_worker_limit()
            self._drafts.handle.follow(commit.base, commit.tokens, limit, contradicts_drafts=outcome.rejected)
            if outcome.rejected:
                self._ignore_drafts()
        return decision

    # -- attaching and detaching drafts ---------------------------------------------------

    def _attach(self) -> None:
        """Begin to draft, unless that is under way, paused, or of no use."""
        request, target = self._stream.request, self._turn.target
        if request is None or self._drafts.is_wanted or self._is_over or not self._fits(target):
            return
        if self._stance.drafts and self._most_drafts and self._chain.frontier >= self._attach_at:
            self._valid_from = 1 if self._chain.num_drafted else 0
            self._drafts.attach(request, self._new_worker_limit(), fp64_noise=target.draws_in_fp64)

    async def _follow_control(self) -> None:
        """After a commit: draft or pause as control has it, and tell the server what it is to do."""
        before, self._stance = self._stance, self._control.stance
        if before[:2] != self._stance[:2]:
            await self._control_turn()
        num_waiting = 0 if self._worker is None else self._worker.num_waiting
        others_wait = num_waiting > 0 and self._drafts.num_committed >= _LEASE
        if others_wait or not (self._stance.drafts and self._most_drafts):
            self._drafts.detach()
        self._attach()
        if self._drafts.handle is None and not self._chain.num_drafted:
            await self._go_alone()

    async def _control_turn(self) -> None:
        stance = self._stance
        self._is_unattended = False
        sent = await self._tell(
            Control(self._turn.number, stance.mode, stance.patience_ms, stream=self._number)
        )
        if sent is not None:
            self._control.on_controlled(sent.sent_s, stance)

    async def _go_alone(self) -> None:
        """Tell a server that waits for drafts to decode without them until some come."""
        if not self._is_unattended and self._stance.mode is not Mode.LATENCY:
            self._is_unattended = True
            await self._tell(Control(self._turn.number, alone=True, stream=self._number))

    async def _tell(self, control: Control) -> SentFrame | None:
        sent = await self._turn.send(control)
        if sent is not None:
            self._stats.uplink_bytes += sent.num_bytes
        return sent

    # -- drafts that are looked up --------------------------------------------------------

    def begin_lookup(self) -> None:
        """Have the prompt read, in a thread if it takes long."""
        self._end_lookup()
        if self._sources is None or not self._turn.target.limits.max_drafts:
            return
        prompt, number = list(self._chain.tokens), self._num_texts
        if self._sources.is_quick(len(prompt)):
            self._tell_loop(_TextRead(number, self._sources.after(prompt), len(prompt)))
        else:
            self._reading = asyncio.create_task(self._read(self._sources, number, prompt))

    async def _read(self, sources: DraftSources, number: int, prompt: list[int]) -> None:
        source = await asyncio.to_thread(sources.after, prompt)
        self._tell_loop(_TextRead(number, source, len(prompt)))

    async def _on_text_read(self, read: _TextRead) -> None:
        if read.number == self._num_texts:
            self._lookup = GuardedSource(read.source, self._chain.vocab_size)
            self._lookup.follow(self._chain.tokens[read.length :])
            self._lookup.extend([draft.token_id for draft in self._chain.drafted])
            await self._send_drafts(self._looked_up(Decision.KEEP))

    def _end_lookup(self) -> None:
        self._num_texts += 1
        self._lookup = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _looked_up(self, decision: Decision) -> Decision:
        """Let a run from the text continue the chain, if that is best now; what to do then."""
        run = self._proposed()
        if not run:
            return decision
        position, ids = self._chain.length, [draft.token_id for draft in run]
        for i, draft in enumerate(run):
            self._chain.append(position + i, draft)
        assert self._lookup is not None
        self._lookup.extend(ids)
        self._follow_drafts(position, ids)
        found = self._control.on_looked_up(position, run, self._chain.view())
        is_last = self._drafts.handle is None or self._chain.length >= self._worker_limit
        return Decision.VERIFY if is_last or Decision.VERIFY in (decision, found) else found

    def _proposed(self) -> Sequence[DraftToken]:
        """The run to take now; empty: none."""
        if self._lookup is None:
            return ()
        chain = self._chain
        limits = self._turn.target.limits
        ahead = min(_PASSES_AHEAD * self._most_drafts, limits.max_draft_tokens)
        end = min(chain.frontier + ahead, self._stream.max_length)
        room = end - chain.length
        if room < (_LEAST_RUN if chain.num_drafted else 1):
            return ()
        survival, least = self._control.survival(chain.drafted), self._control.least_survival
        run = self._lookup.propose(room, survival, least)
        if chain.num_drafted and len(run) < _LEAST_RUN:
            return ()
        return run if self._drafts.handle is None or (run and self._control.prefers(run)) else ()

    # -- what goes out --------------------------------------------------------------------

    async def _send_drafts(self, decision: Decision) -> None:
        """Carry out `decision`, and make sure that another event will come."""
        if decision is not Decision.KEEP:
            await self._upload(verify=decision is Decision.VERIFY)
        if self._chain.awaits_commit or self._chain.length < self._worker_limit:
            return
        # The worker has stopped and nothing is being verified: draft on if that makes sense by now.
        if self._limit() > self._chain.length:
            self._limit_drafting()
        elif self._chain.num_drafted:
            await self._upload(verify=True)

    async def _upload(self, *, verify: bool) -> None:
        if not self._stream.takes_drafts:
            return
        awaiting_commit = self._chain.awaits_commit
        draft = self._chain.take_unsent(
            self._turn.number, verify=verify, confidence=self._control.confidence, stream=self._number
        )
        if draft is None or (sent := await self._turn.send(draft)) is None:
            return
        self._is_unattended = False
        self._control.on_sent(sent.sent_s, draft, sent.num_bytes, awaiting_commit=awaiting_commit)
        self._stats.draft_tokens_sent += len(draft.tokens)
        self._stats.uplink_draft_bytes += sent.num_bytes
        self._stats.uplink_bytes += sent.num_bytes
        if verify:
            self._limit_drafting()

    def _limit_drafting(self) -> None:
        if self._drafts.handle is not None:
            self._drafts.handle.set_limit(self._new_worker_limit())

    def _new_worker_limit(self) -> int:
        self._worker_limit = self._limit()
        return self._worker_limit

    def _limit(self) -> int:
        """Length of the sequence up to which drafting makes sense now."""
        ahead = min(self._control.max_ahead(self._chain.view()), self._most_drafts)
        return min(self._chain.frontier + ahead, self._stream.max_length)

    @property
    def _most_drafts(self) -> int:
        """Most drafts beyond the frontier that the server has a use for: those of the next two passes."""
        most = self._turn.target.limits.max_drafts
        return most if self._cap is None else min(most, 2 * self._cap)
