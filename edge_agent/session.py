"""One collaborative generation: drafts up, committed stream down, chunks out.

Drafts come from the worker's thread, commits from the network; both end in one queue of
events, so that all state changes happen in one place and in one order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from edge_agent.chain import DraftChain, Reconciled, logprobs_of
from edge_agent.connection import ConnectionPool
from edge_agent.draft_events import Drafted, DraftEvent, Exhausted, Rewound
from edge_agent.errors import CloudError, CloudRefused, CloudUnreachable, DraftCapacityError, EdgeError
from edge_agent.generation import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Source,
)
from edge_agent.policies.base import ChainView, Decision
from edge_agent.sampling.source import Pickers
from edge_agent.session_control import CommitReceived, SessionControl
from edge_agent.turn_link import LinkEvent, TurnLink
from edge_agent.worker import DraftHandle, DraftWorker
from pipesd_vllm.protocol import Mode, RefusalCode


class CollaborativeSession:
    """Runs one request; create one per generation."""

    def __init__(
        self,
        request: GenerationRequest,
        pool: ConnectionPool,
        worker: DraftWorker,
        control: SessionControl,
        mode: Mode,
        clock: Callable[[], float],
        pickers: Pickers | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """`waits`: while the verifier is out of reach, wait for it without an end."""
        self.stats = GenerationStats(started_s=clock(), seed=request.sampling.seed)
        self._request = request
        self._worker = worker
        self._control = control
        self._mode = mode
        self._clock = clock
        self._pickers = pickers or Pickers()
        self._events: asyncio.Queue[DraftEvent | LinkEvent] = asyncio.Queue()
        self._link = TurnLink(request, pool, self.stats, control, clock, self._events.put_nowait, waits=waits)
        self._chain = DraftChain(request.prompt_token_ids, vocab_size=0)
        self._handle: DraftHandle | None = None
        self._ignore_drafts = False
        self._verify_until = 0
        """Verification was asked for up to this position (exclusive)."""
        self._told_limit = 0
        """Length up to which the worker was told to draft."""

    async def run(self) -> AsyncGenerator[GenerationChunk, None]:
        """Yield committed tokens until the turn ends. Raises `CloudError`, `PairingError`."""
        finished = False
        reason = "left"
        try:
            connection = await self._link.connect()
            self._chain = DraftChain(self._request.prompt_token_ids, connection.welcome.vocab_size)
            await self._link.open(self._chain, self._mode)
            await self._start_drafting()
            while not finished:
                chunk = await self._handle_event(await self._events.get())
                if chunk is not None:
                    finished = chunk.finish_reason is not None
                    reason = str(chunk.finish_reason or reason)
                    yield chunk
        except EdgeError as error:
            reason = type(error).__name__
            raise
        finally:
            if self._handle is not None:
                self._handle.close()
            self._control.trace.ended(self._clock(), reason)
            await self._link.stop(finished=finished)

    async def _start_drafting(self) -> None:
        picker = await self._pickers.picker(self._request)
        try:
            self._handle = await self._worker.open(
                self._chain.tokens, self._new_limit(), self._events.put_nowait, picker
            )
        except DraftCapacityError as error:
            self._events.put_nowait(Exhausted(str(error)))

    async def _handle_event(self, event: DraftEvent | LinkEvent) -> GenerationChunk | None:
        match event:
            case LinkEvent():
                return await self._on_link(event.what) if self._link.is_current(event) else None
            case Drafted():
                await self._on_draft(event)
            case Exhausted():
                await self._go_without_drafts()
            case Rewound(position):
                self._on_rewound(position)
        return None

    async def _on_link(self, what: CommitReceived | CloudError) -> GenerationChunk | None:
        match what:
            case CommitReceived():
                return await self._on_commit(what)
            case CloudRefused(code=RefusalCode.ABANDONED) if self._mode is not Mode.LATENCY:
                await self._go_without_drafts()  # the server would not wait for them any longer
            case CloudUnreachable():
                await self._link.resume(self._chain, self._mode, what)
                await self._upload(verify=True)
            case _:
                raise what
        return None

    def _on_rewound(self, position: int) -> None:
        """What the worker drafts from here on builds on committed tokens again."""
        num_discarded = self._chain.void()
        self.stats.draft_tokens_discarded += num_discarded
        self._verify_until = 0
        self._control.on_void(position, num_discarded)
        self._ignore_drafts = False

    # -- commits --------------------------------------------------------------------------

    async def _on_commit(self, event: CommitReceived) -> GenerationChunk:
        commit = event.commit
        reconciled = self._chain.commit(commit.base, commit.tokens)
        if not reconciled.matched:
            self._ignore_drafts = True
            self._verify_until = 0
        self._count(event, reconciled)
        decision = self._control.on_commit(event, reconciled, self._view())
        if self._handle is not None:
            self._handle.commit(
                commit.base, commit.tokens, self._new_limit(), contradicts_drafts=not reconciled.matched
            )
        reason = None if commit.finish_reason is None else FinishReason(commit.finish_reason)
        if reason is None:
            await self._carry_out(decision)
        sources = tuple(Source.DRAFTED if agreed else Source.CORRECTED for agreed in reconciled.agreed)
        logprobs = logprobs_of(commit, len(reconciled.new_tokens))
        return GenerationChunk(reconciled.new_tokens, reason, self.stats, sources, logprobs)

    def _count(self, event: CommitReceived, reconciled: Reconciled) -> None:
        stats, commit = self.stats, event.commit
        stats.downlink_bytes += event.num_bytes
        stats.target_passes += commit.passes
        stats.draft_tokens_verified += commit.drafted
        stats.draft_tokens_accepted += commit.accepted
        stats.draft_tokens_discarded += reconciled.discarded
        stats.completion_tokens += len(reconciled.new_tokens)
        if reconciled.new_tokens:
            stats.last_token_s = event.received_s
            if stats.first_token_s is None:
                stats.first_token_s = event.received_s

    # -- drafts ---------------------------------------------------------------------------

    async def _on_draft(self, event: Drafted) -> None:
        self._control.on_drafted(event)
        if self._ignore_drafts:
            return
        if event.position < self._chain.frontier:
            # Drafted before the commit was known; if wrong, a Rewound is on its way.
            right = self._chain.agrees_with_committed(event.position, event.draft.token_id)
            self._ignore_drafts = not right
            return
        if not self._chain.append(event.position, event.draft):
            return
        await self._carry_out(self._control.decide(event, self._view()))

    async def _carry_out(self, decision: Decision) -> None:
        if decision is not Decision.KEEP:
            await self._upload(verify=decision is Decision.VERIFY)
        drafted_to = self._chain.frontier + self._chain.num_drafted
        if self._awaiting_commit or drafted_to < self._told_limit:
            return
        # The worker stops here and nothing is being verified: nobody else will ask.
        if self._draft_limit() > drafted_to:
            self._limit_drafting()
        elif self._chain.num_drafted:
            await self._upload(verify=True)

    @property
    def _awaiting_commit(self) -> bool:
        return self._verify_until > self._chain.frontier

    def _view(self) -> ChainView:
        return ChainView(self._chain.num_drafted, self._chain.num_unsent, self._awaiting_commit)

    def _draft_limit(self) -> int:
        """Length up to which drafting makes sense now."""
        most = len(self._request.prompt_token_ids) + self._request.sampling.max_tokens
        return min(self._chain.frontier + self._control.ahead(self._view()), most)

    def _new_limit(self) -> int:
        """The draft limit, for the worker to be told."""
        self._told_limit = self._draft_limit()
        return self._told_limit

    def _limit_drafting(self) -> None:
        if self._handle is not None:
            self._handle.set_limit(self._new_limit())

    async def _upload(self, *, verify: bool) -> None:
        draft = self._chain.take_unsent(self._link.turn, verify=verify)
        if draft is None or not await self._link.send(draft, awaiting_commit=self._awaiting_commit):
            return
        if verify:
            self._verify_until = self._chain.frontier + self._chain.num_sent
            self._limit_drafting()

    async def _go_without_drafts(self) -> None:
        """Let the server go on from here without waiting for drafts."""
        if self._mode is not Mode.LATENCY:
            self._mode = Mode.LATENCY
            self._verify_until = 0
            await self._link.reopen(self._chain, self._mode)
            await self._upload(verify=True)
