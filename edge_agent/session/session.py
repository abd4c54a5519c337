"""One collaborative generation: drafts up, committed stream down, chunks out.

Drafts come from the worker's thread, commits from the network; both end in one queue of
events, so that all state changes happen in one place and in one order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable

from edge_agent.api import Fallback, FinishReason, GenerationChunk, GenerationRequest, GenerationStats, Source
from edge_agent.control.policies.base import ChainView, Decision
from edge_agent.drafting.events import Drafted, DraftEvent, DraftingStopped, Rewound
from edge_agent.drafting.worker import DraftHandle, DraftWorker
from edge_agent.errors import (
    CloudError,
    CloudOverloaded,
    CloudRefused,
    CloudUnreachable,
    DraftCapacityError,
    EdgeError,
)
from edge_agent.sampling.pickers import Pickers
from edge_agent.session.chain import DraftChain, Reconciled, logprobs_of
from edge_agent.session.control import CommitReceived, SessionControl
from edge_agent.session.turn import LinkEvent, TurnLink
from edge_agent.verifier.connection import ConnectionPool
from pipesd_vllm.wire import Commit, Mode, RefusalCode

__all__ = ["CollaborativeSession", "LookAhead", "chunk_of", "count_commit"]


def count_commit(stats: GenerationStats, event: CommitReceived, reconciled: Reconciled) -> None:
    """Add what came with a commit to `stats`."""
    commit = event.commit
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


def chunk_of(commit: Commit, reconciled: Reconciled, stats: GenerationStats) -> GenerationChunk:
    """Its new tokens, where they come from, and how the generation ended, if it has."""
    reason = None if commit.finish_reason is None else FinishReason(commit.finish_reason)
    sources = tuple(Source.DRAFTED if agreed else Source.CORRECTED for agreed in reconciled.agreed)
    logprobs = logprobs_of(commit, len(reconciled.new_tokens))
    return GenerationChunk(reconciled.new_tokens, reason, stats, sources, logprobs)


class LookAhead:
    """Limits are lengths of the whole sequence in tokens, prompt first."""

    def __init__(self, chain: DraftChain, most: int, ahead: Callable[[ChainView], int]) -> None:
        """`most`: no draft beyond this length. `ahead`: how many drafts the policy wants."""
        self._chain = chain
        self._most = most
        self._ahead = ahead
        self._verify_until = 0
        """Verification was asked for up to this position (exclusive)."""
        self._told_limit = 0
        """Length up to which the worker was told to draft."""

    @property
    def awaits_commit(self) -> bool:
        """Verification was asked for and has not been answered."""
        return self._verify_until > self._chain.frontier

    @property
    def is_stalled(self) -> bool:
        """The worker has stopped and nothing is being verified: no event will come by itself."""
        return not self.awaits_commit and self._drafted_to >= self._told_limit

    @property
    def may_go_on(self) -> bool:
        """Whether more drafts than there are make sense now."""
        return self._limit() > self._drafted_to

    def view(self) -> ChainView:
        """What the policy decides by."""
        return ChainView(self._chain.num_drafted, self._chain.num_unsent, self.awaits_commit)

    def asked_to_verify(self) -> None:
        """Everything sent so far is to be verified."""
        self._verify_until = self._chain.frontier + self._chain.num_sent

    def give_up_waiting(self) -> None:
        """What was asked for will not be answered: it is void, or the turn was opened anew."""
        self._verify_until = 0

    def new_limit(self) -> int:
        """Length up to which drafting makes sense now, for the worker to be told."""
        self._told_limit = self._limit()
        return self._told_limit

    @property
    def _drafted_to(self) -> int:
        return self._chain.frontier + self._chain.num_drafted

    def _limit(self) -> int:
        return min(self._chain.frontier + self._ahead(self.view()), self._most)


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
        fallback: Fallback = Fallback.ERROR,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`fallback` says how long to try to reach the verifier; `draw` gives 0 to 1, for the delays."""
        self.stats = GenerationStats(started_s=clock(), seed=request.sampling.seed)
        self._request = request
        self._worker = worker
        self._control = control
        self._mode = mode
        self._clock = clock
        self._pickers = pickers or Pickers()
        self._events: asyncio.Queue[DraftEvent | LinkEvent] = asyncio.Queue()
        self._link = TurnLink(
            request,
            pool,
            self.stats,
            control,
            clock,
            self._events.put_nowait,
            fallback=fallback,
            draw=draw,
        )
        self._chain = DraftChain(request.prompt_token_ids)
        most = len(request.prompt_token_ids) + request.sampling.max_tokens
        self._look_ahead = LookAhead(self._chain, most, control.ahead)
        self._handle: DraftHandle | None = None
        self._ignore_drafts = False

    async def run(self) -> AsyncGenerator[GenerationChunk, None]:
        """Yield committed tokens until the turn ends. Raises `CloudError`, `PairingError`."""
        finished = False
        reason = "left"
        try:
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
                self._chain.tokens, self._look_ahead.new_limit(), self._events.put_nowait, picker
            )
        except DraftCapacityError as error:
            self._events.put_nowait(DraftingStopped(str(error)))

    async def _handle_event(self, event: DraftEvent | LinkEvent) -> GenerationChunk | None:
        match event:
            case LinkEvent():
                return await self._on_link(event.what) if self._link.is_current(event) else None
            case Drafted():
                await self._on_draft(event)
            case DraftingStopped():
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
            case CloudUnreachable() | CloudOverloaded():
                await self._link.open(self._chain, self._mode, what)
                await self._upload(verify=True)
            case _:
                raise what
        return None

    def _on_rewound(self, position: int) -> None:
        """What the worker drafts from here on builds on committed tokens again."""
        num_discarded = self._chain.void()
        self.stats.draft_tokens_discarded += num_discarded
        self._look_ahead.give_up_waiting()
        self._control.on_void(position, num_discarded)
        self._ignore_drafts = False

    # -- commits --------------------------------------------------------------------------

    async def _on_commit(self, event: CommitReceived) -> GenerationChunk:
        commit = event.commit
        reconciled = self._chain.commit(commit.base, commit.tokens)
        if not reconciled.matched:
            self._ignore_drafts = True
            self._look_ahead.give_up_waiting()
        count_commit(self.stats, event, reconciled)
        decision = self._control.on_commit(event, reconciled, self._look_ahead.view())
        if self._handle is not None:
            self._handle.commit(
                commit.base,
                commit.tokens,
                self._look_ahead.new_limit(),
                contradicts_drafts=not reconciled.matched,
            )
        if commit.finish_reason is None:
            await self._carry_out(decision)
        return chunk_of(commit, reconciled, self.stats)

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
        await self._carry_out(self._control.decide(event, self._look_ahead.view()))

    async def _carry_out(self, decision: Decision) -> None:
        if decision is not Decision.KEEP:
            await self._upload(verify=decision is Decision.VERIFY)
        if not self._look_ahead.is_stalled:
            return
        # The worker stops here and nothing is being verified: nobody else will ask.
        if self._look_ahead.may_go_on:
            self._limit_drafting()
        elif self._chain.num_drafted:
            await self._upload(verify=True)

    def _limit_drafting(self) -> None:
        if self._handle is not None:
            self._handle.set_limit(self._look_ahead.new_limit())

    async def _upload(self, *, verify: bool) -> None:
        draft = self._chain.take_unsent(self._link.turn, verify=verify)
        if draft is None or not await self._link.send(draft, awaiting_commit=self._look_ahead.awaits_commit):
            return
        if verify:
            self._look_ahead.asked_to_verify()
            self._limit_drafting()

    async def _go_without_drafts(self) -> None:
        """Let the server go on from here without waiting for drafts."""
        if self._mode is not Mode.LATENCY:
            self._mode = Mode.LATENCY
            self._look_ahead.give_up_waiting()
            await self._link.open(self._chain, self._mode)
            await self._upload(verify=True)
