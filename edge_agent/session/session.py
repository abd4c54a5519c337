"""One collaborative generation: drafts go up, the committed stream comes down, chunks go out.

Drafts come from the worker's thread, commits from the network. Both end in one queue of events, so that all
state changes in one place and in one order: the loop of `CollaborativeSession.run`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable

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
from edge_agent.drafting import Drafted, DraftEvent, DraftHandle, DraftingStopped, DraftWorker, Rewound
from edge_agent.errors import TRANSIENT, CloudError, CloudRefused, DraftCapacityError, EdgeError, Transient
from edge_agent.sampling import Pickers
from edge_agent.session.control import SessionControl
from edge_agent.session.exchange import ApiExchange, TokenExchange, finish_reason
from edge_agent.session.turn import ReceivedCommit, ReceivedFrame, Turn, TurnEvent, TurnLost
from edge_agent.verifier import ConnectionPool
from pipesd_vllm.wire import Begun, Commit, Mode, RefusalCode, Text

__all__ = ["CollaborativeSession"]


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
        mode: Mode,
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
        self._mode = mode
        self._clock = clock
        self._pickers = pickers or Pickers()
        self._events: asyncio.Queue[DraftEvent | TurnEvent] = asyncio.Queue()
        self._chain = self.exchange.chain
        told = self._events.put_nowait
        self._turn = Turn(self.exchange, pool, clock, told, fallback=fallback, draw=draw)
        self._handle: DraftHandle | None = None
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
            if self.exchange.request is not None:
                await self._start_drafting(self.exchange.request)
            while not finished:
                match await self._events.get():
                    case ReceivedCommit() | ReceivedFrame() | TurnLost() as event if (
                        event.opening != self._turn.opening
                    ):
                        pass  # read before the turn was opened again
                    case Drafted() | Rewound() | DraftingStopped() if self._is_drafting_over:
                        pass
                    case Drafted() as event:
                        await self._send_drafts(self._on_drafted(event))
                    case ReceivedCommit() as event:
                        outcome = self.exchange.apply(event.commit)
                        if _is_replay(event.commit, outcome):
                            continue
                        chunk = self._chunk(event, outcome)
                        if event.commit.stream:
                            self._count(event, outcome)
                        elif chunk.finish_reason is None:
                            await self._send_drafts(self._on_commit(event, outcome))
                        else:
                            self._on_commit(event, outcome)
                            self._end_drafting()
                            finished = self.exchange.is_whole
                            reason = str(chunk.finish_reason)
                        yield chunk
                    case ReceivedFrame(frame=Begun() as begun, num_bytes=num_bytes):
                        await self._on_begun(begun, num_bytes)
                    case ReceivedFrame() as event:
                        for told in await self._on_text(event):
                            yield told
                        finished = self.exchange.is_whole
                    case Rewound(position):
                        self._on_rewound(position)
                    case DraftingStopped():
                        await self._go_without_drafts()
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
        decision = self._control.on_commit(received, outcome, self._chain.view())
        if outcome.rejected:
            self._ignore_drafts = True
        if self._handle is not None:
            limit = self._new_worker_limit()
            self._handle.follow(commit.base, commit.tokens, limit, contradicts_drafts=outcome.rejected)
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
            if self._handle is not None:
                self._handle.close()  # of another prompt, that of a server which was lost
            await self._start_drafting(request)
        elif begun.first == 0 and begun.drafted and self.exchange.request is None:
            self._events.put_nowait(DraftingStopped("there is nothing to draft from"))
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
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    async def _on_loss(self, error: CloudError) -> None:
        """Open the turn again, if that can help. Raises `error` if not."""
        if isinstance(error, TRANSIENT):
            await self._open_turn(error)
            await self._send_drafts(Decision.VERIFY)
        elif (
            isinstance(error, CloudRefused)
            and error.code == RefusalCode.ABANDONED
            and self._mode is not Mode.LATENCY
        ):
            await self._go_without_drafts()  # the server would not wait for them any longer
        else:
            raise error

    async def _go_without_drafts(self) -> None:
        """Let the server go on from here without waiting for drafts."""
        if self._mode is not Mode.LATENCY:
            self._mode = Mode.LATENCY
            await self._open_turn()
            await self._send_drafts(Decision.VERIFY)

    # -- what goes out --------------------------------------------------------------------

    async def _open_turn(self, lost: Transient | None = None) -> None:
        patience_ms = self._control.patience_ms
        sent = await self._turn.open(self._mode, patience_ms, lost)
        self.stats.uplink_bytes += sent.num_bytes
        self._control.on_opened(sent.sent_s, sent.num_bytes, patience_ms)

    async def _start_drafting(self, request: GenerationRequest) -> None:
        target = self._turn.target
        if not target.limits.max_drafts:
            self._events.put_nowait(DraftingStopped("the verifier checks no drafts"))
            return
        picker = await self._pickers.picker(request, fp64_noise=target.draws_in_fp64)
        try:
            self._handle = await self._worker.open(
                self._chain.tokens, self._new_worker_limit(), self._events.put_nowait, picker
            )
        except DraftCapacityError as error:
            self._events.put_nowait(DraftingStopped(str(error)))

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
        if self._handle is not None:
            self._handle.set_limit(self._new_worker_limit())

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
        if outcome.new_tokens:
            stats.last_token_s = received.received_s
            if stats.first_token_s is None:
                stats.first_token_s = received.received_s

    def _chunk(self, received: ReceivedCommit, outcome: CommitOutcome) -> GenerationChunk:
        reason = received.commit.finish_reason
        sources = tuple(Source.DRAFTED if drafted else Source.CORRECTED for drafted in outcome.from_draft)
        finished = None if reason is None else finish_reason(reason)
        stream = received.commit.stream
        return GenerationChunk(outcome.new_tokens, finished, self.stats, sources, outcome.logprobs, stream)
