"""One collaborative generation: drafts go up, the committed stream comes down, chunks go out.

Drafts come from the worker's thread, commits from the network. Both end in one queue of events, so that all
state changes in one place and in one order: the loop of `CollaborativeSession.run`. Nothing of the answer
waits for drafts: they join when they are ready.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Final

from edge_agent.api import (
    AnswerHead,
    AnswerText,
    AskRequest,
    Fallback,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Source,
)
from edge_agent.control import CommitOutcome, Decision
from edge_agent.drafting import Drafted, DraftEvent, DraftingStopped, DraftWorker, Rewound
from edge_agent.errors import TRANSIENT, CloudError, CloudRefused, EdgeError, Transient
from edge_agent.sampling import Pickers
from edge_agent.session.attachment import Attached, AttachmentEvent, DraftAttachment
from edge_agent.session.control import SessionControl
from edge_agent.session.exchange import ApiExchange, TokenExchange, finish_reason
from edge_agent.session.turn import ReceivedCommit, ReceivedFrame, Turn, TurnEvent, TurnLost
from edge_agent.verifier import ConnectionPool
from pipesd_vllm.wire import Begun, Commit, Control, Mode, RefusalCode, Text

__all__ = ["CollaborativeSession"]

_LEASE: Final = 64
"""Committed tokens for which an answer keeps its place in the draft model while others wait for one."""
_FIRST_RETRY: Final = 16
"""Committed tokens after which drafts that stopped begin again; twice as many after each further stop."""
_MAX_STOPS: Final = 6


def _is_replay(commit: Commit, outcome: CommitOutcome) -> bool:
    """Whether the frame brings nothing new: its passes and drafts were counted when it came first."""
    return bool(commit.tokens) and not outcome.new_tokens and commit.finish_reason is None


class CollaborativeSession:
    """Runs one request; create one per generation."""

    def __init__(
        self,
        request: GenerationRequest | AskRequest,
        pool: ConnectionPool,
        worker: DraftWorker,
        control: SessionControl,
        clock: Callable[[], float],
        pickers: Pickers | None = None,
        *,
        fallback: Fallback = Fallback.ERROR,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`fallback` says how long to try to reach the verifier; `draw` gives 0 to 1, for the delays."""
        self.stats = GenerationStats(started_s=clock())
        self.exchange: TokenExchange | ApiExchange
        if isinstance(request, AskRequest):
            self.exchange = ApiExchange(request, self.stats)
        else:
            self.exchange = TokenExchange(request)
            self.stats.seed = request.sampling.seed
        self._worker = worker
        self._control = control
        self._clock = clock
        self._events: asyncio.Queue[AttachmentEvent | TurnEvent] = asyncio.Queue()
        self._chain = self.exchange.chain
        told = self._events.put_nowait
        self._turn = Turn(self.exchange, pool, clock, told, fallback=fallback, draw=draw)
        self._drafts = DraftAttachment(self._chain, worker, pickers or Pickers(), told)
        self._stance = control.stance
        """What the server was told."""
        self._is_unattended = False
        """The server waits for drafts as it is told, but none will come for a while: it was told so, too."""
        self._attach_at = 0
        """Length of the sequence from which on drafts may begin again after they stopped."""
        self._num_stops = 0
        self._worker_limit = 0
        """Length of the sequence up to which the worker was told to draft."""
        self._ignore_drafts = False
        """A draft was rejected: what still comes builds on it, until the worker has rewound."""
        self._is_drafting_over = False

    async def run(self) -> AsyncGenerator[GenerationChunk | AnswerHead | AnswerText, None]:
        """Yield committed tokens, and the text of an API's answer, until the turn ends.

        Raises `CloudError`, `PairingError`.
        """
        finished = False
        reason = "left"
        try:
            await self._open_turn()
            while not finished:
                match await self._events.get():
                    case ReceivedCommit() | ReceivedFrame() | TurnLost() as event if (
                        event.opening != self._turn.opening
                    ):
                        pass  # read before the turn was opened again
                    case AttachmentEvent() as event:
                        await self._on_drafting(self._drafts.take(event))
                    case ReceivedCommit() as event:
                        outcome = self.exchange.apply(event.commit)
                        if _is_replay(event.commit, outcome):
                            continue
                        chunk = self._chunk(event, outcome)
                        if event.commit.stream:
                            self._count(event, outcome)
                        elif chunk.finish_reason is None:
                            await self._send_drafts(self._on_commit(event, outcome))
                            await self._follow_control()
                        else:
                            self._on_commit(event, outcome)
                            self._end_drafting()
                            finished = self.exchange.is_whole
                            reason = str(chunk.finish_reason)
                        self._stamp(outcome)
                        yield chunk
                    case ReceivedFrame(frame=Begun() as begun, num_bytes=num_bytes):
                        await self._on_begun(begun, num_bytes)
                    case ReceivedFrame() as event:
                        for told in await self._on_text(event):
                            yield told
                        finished = self.exchange.is_whole
                    case TurnLost(_, error):
                        await self._on_loss(error)
        except EdgeError as error:
            reason = type(error).__name__
            raise
        finally:
            self._end_drafting()
            self._control.trace.ended(self._clock(), reason)
            await self._turn.stop(finished=finished)

    # -- what an event changes ------------------------------------------------------------

    async def _on_drafting(self, event: DraftEvent | Attached | None) -> None:
        match event:
            case Drafted():
                await self._send_drafts(self._on_drafted(event))
            case Rewound(position):
                self._on_rewound(position)
            case Attached(handle):
                self._is_unattended = False  # its first drafts end the server's going alone
                handle.follow(handle.length, self._chain.tokens[handle.length :], self._new_worker_limit())
            case DraftingStopped():
                self._attach_at = self._chain.frontier + (_FIRST_RETRY << self._num_stops)
                self._num_stops = min(self._num_stops + 1, _MAX_STOPS)
                await self._go_alone()

    def _on_drafted(self, event: Drafted) -> Decision:
        self._control.on_drafted(event)
        if self._ignore_drafts:
            return Decision.KEEP
        if event.position < self._chain.frontier:
            # Drafted before the commit was known; if wrong, a Rewound is on its way.
            self._ignore_drafts = not self._chain.agrees_with_committed(event.position, event.draft.token_id)
            return Decision.KEEP
        if not self._chain.append(event.position, event.draft):
            return Decision.KEEP
        # The policy says when a batch is sent: by default control/policies/adaptive.py.
        return self._control.decide(event, self._chain.view())

    def _on_commit(self, received: ReceivedCommit, outcome: CommitOutcome) -> Decision:
        """The chain has taken the commit; tell everybody else."""
        commit = received.commit
        self._count(received, outcome)
        decision = self._control.on_commit(
            received, outcome, self._chain.view(), is_drafting=self._drafts.handle is not None
        )
        if outcome.rejected:
            self._ignore_drafts = True
        if self._drafts.handle is not None:
            limit = self._new_worker_limit()
            self._drafts.handle.follow(commit.base, commit.tokens, limit, contradicts_drafts=outcome.rejected)
        return decision

    def _on_rewound(self, position: int) -> None:
        """What the worker drafts from here on builds on committed tokens again."""
        num_discarded = self._chain.void()
        self.stats.draft_tokens_discarded += num_discarded
        self._control.on_void(position, num_discarded)
        self._ignore_drafts = False

    async def _on_begun(self, begun: Begun, num_bytes: int) -> None:
        """The server has the prompt: draft from it, or go on drafting after a resumption."""
        self.stats.downlink_bytes += num_bytes
        assert isinstance(self.exchange, ApiExchange)
        if self.exchange.begin(begun):
            assert self.exchange.request is not None
            request = self.exchange.request
            self._control.trace.begun(self._clock(), len(request.prompt_token_ids))
            self._drafts.detach()  # of another prompt, that of a server which was lost
            self._attach()
        if begun.first == 0 and self.exchange.takes_drafts:
            await self._turn.send_held()
            await self._send_drafts(Decision.VERIFY)

    async def _on_text(self, received: ReceivedFrame) -> list[AnswerHead | AnswerText]:
        """What the client gets; nothing if the server is too busy, so that it is asked again."""
        stats = self.stats
        stats.downlink_bytes += received.num_bytes
        assert isinstance(self.exchange, ApiExchange)
        assert not isinstance(received.frame, Begun)
        try:
            told = list(self.exchange.told(received.frame))
        except TRANSIENT as error:
            await self._on_loss(error)
            return []
        if not stats.drafted and isinstance(received.frame, Text) and received.frame.data:
            stats.last_token_s = received.received_s
            stats.first_token_s = stats.first_token_s or received.received_s
        return told

    def _end_drafting(self) -> None:
        self._is_drafting_over = True
        self._chain.void()
        self._drafts.detach()

    async def _on_loss(self, error: CloudError) -> None:
        """Open the turn again, if that can help. Raises `error` if not."""
        if isinstance(error, TRANSIENT):
            await self._open_turn(error)
            await self._send_drafts(Decision.VERIFY)
        elif isinstance(error, CloudRefused) and error.code == RefusalCode.ABANDONED:
            await self._open_turn()
            await self._go_alone()  # the server waited for drafts long enough
            await self._send_drafts(Decision.VERIFY)
        else:
            raise error

    # -- attaching and detaching drafts ---------------------------------------------------

    def _attach(self) -> None:
        """Begin to draft, unless that is under way, paused, or of no use."""
        request, target = self.exchange.request, self._turn.target
        if request is None or self._drafts.is_wanted or self._is_drafting_over:
            return
        if self._stance.drafts and target.limits.max_drafts and self._chain.frontier >= self._attach_at:
            self._ignore_drafts = False
            self._drafts.attach(request, self._new_worker_limit(), fp64_noise=target.draws_in_fp64)

    async def _follow_control(self) -> None:
        """After a commit: draft or pause as control has it, and tell the server what it is to do."""
        before, self._stance = self._stance, self._control.stance
        if before[:2] != self._stance[:2]:
            await self._control_turn()
        others_wait = self._worker.num_waiting > 0 and self._drafts.num_committed >= _LEASE
        if others_wait or not self._stance.drafts:
            self._drafts.detach()
        self._attach()
        if self._drafts.handle is None:
            await self._go_alone()

    async def _control_turn(self) -> None:
        stance = self._stance
        self._is_unattended = False
        sent = await self._turn.send(Control(self._turn.number, stance.mode, stance.patience_ms))
        if sent is not None:
            self.stats.uplink_bytes += sent.num_bytes
            self._control.on_controlled(sent.sent_s, stance)

    async def _go_alone(self) -> None:
        """Tell a server that waits for drafts to decode without them until some come."""
        if self._is_unattended or self._stance.mode is Mode.LATENCY:
            return
        self._is_unattended = True
        sent = await self._turn.send(Control(self._turn.number, alone=True))
        if sent is not None:
            self.stats.uplink_bytes += sent.num_bytes

    # -- what goes out --------------------------------------------------------------------

    async def _open_turn(self, lost: Transient | None = None) -> None:
        self._stance, self._is_unattended = self._control.stance, False
        sent = await self._turn.open(self._stance.mode, self._stance.patience_ms, lost)
        self.stats.uplink_bytes += sent.num_bytes
        self._control.on_opened(sent.sent_s, sent.num_bytes, self._stance)
        self._attach()

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
        if not self.exchange.takes_drafts:
            return
        awaiting_commit = self._chain.awaits_commit
        draft = self._chain.take_unsent(self._turn.number, verify=verify)
        if draft is None or (sent := await self._turn.send(draft)) is None:
            return
        self._control.on_sent(sent.sent_s, draft, sent.num_bytes, awaiting_commit=awaiting_commit)
        self.stats.draft_tokens_sent += len(draft.tokens)
        self.stats.uplink_draft_bytes += sent.num_bytes
        self.stats.uplink_bytes += sent.num_bytes
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
        ahead = min(self._control.max_ahead(self._chain.view()), self._turn.target.limits.max_drafts)
        return min(self._chain.frontier + ahead, self.exchange.max_length)

    # -- what the client is told ----------------------------------------------------------

    def _count(self, received: ReceivedCommit, outcome: CommitOutcome) -> None:
        stats = self.stats
        stats.downlink_bytes += received.num_bytes
        stats.target_passes += received.commit.passes
        stats.draft_tokens_verified += outcome.num_verified
        stats.draft_tokens_accepted += outcome.num_accepted
        stats.draft_tokens_discarded += outcome.num_discarded
        stats.completion_tokens += len(outcome.new_tokens)

    def _stamp(self, outcome: CommitOutcome) -> None:
        """The client gets the tokens now."""
        if outcome.new_tokens:
            self.stats.last_token_s = self._clock()
            if self.stats.first_token_s is None:
                self.stats.first_token_s = self.stats.last_token_s

    def _chunk(self, received: ReceivedCommit, outcome: CommitOutcome) -> GenerationChunk:
        reason = received.commit.finish_reason
        sources = tuple(Source.DRAFTED if drafted else Source.CORRECTED for drafted in outcome.from_draft)
        finished = None if reason is None else finish_reason(reason)
        stream = received.commit.stream
        return GenerationChunk(outcome.new_tokens, finished, self.stats, sources, outcome.logprobs, stream)
