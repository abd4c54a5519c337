"""One collaborative generation: drafts go up, the committed stream comes down, chunks go out.

Drafts come from the worker's thread, commits from the network. Both end in one queue of events, so that all
state changes in one place and in one order: the loop of `CollaborativeSession.run`. Nothing of the answer
waits for drafts: they join when they are ready. Each stream of an answer has its own (`StreamDrafts`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from functools import partial

from edge_agent.api import (
    AnswerDrafts,
    AnswerHead,
    AnswerText,
    AskRequest,
    Fallback,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
)
from edge_agent.control import CommitOutcome
from edge_agent.drafting import DraftSources, DraftWorker
from edge_agent.errors import TRANSIENT, CloudError, CloudRefused, EdgeError, Transient
from edge_agent.sampling import Pickers
from edge_agent.session.control import SessionControl
from edge_agent.session.exchange import ApiExchange, TokenExchange, finish_reason
from edge_agent.session.stream_drafts import DraftingEvent, StreamDrafts
from edge_agent.session.turn import ReceivedCommit, ReceivedFrame, SentFrame, Turn, TurnEvent, TurnLost
from edge_agent.verifier import ConnectionPool
from pipesd_vllm.wire import Begun, Commit, RefusalCode, Text, Welcome

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
        worker: DraftWorker | None,
        start_control: Callable[[], SessionControl],
        clock: Callable[[], float],
        pickers: Pickers | None = None,
        *,
        fits: Callable[[Welcome], bool] = lambda _: True,
        sources: DraftSources | None = None,
        fallback: Fallback = Fallback.ERROR,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`start_control` gives the controls of one more stream. `fits`: whether the worker's model has the
        target's vocabulary. `sources` makes what looks drafts up; None: nothing does.
        `fallback` says how long to try to reach the verifier; `draw` gives 0 to 1, for the delays."""
        self.stats = GenerationStats(started_s=clock())
        self.exchange: TokenExchange | ApiExchange
        if isinstance(request, AskRequest):
            self.exchange = ApiExchange(request, self.stats)
            self.stats.streamed_bytes = len(request.body)
        else:
            self.exchange = TokenExchange(request)
            self.stats.seed = request.sampling.seed
        self._clock = clock
        self._events: asyncio.Queue[DraftingEvent | TurnEvent] = asyncio.Queue()
        told = self._events.put_nowait
        self._turn = Turn(self.exchange, pool, clock, told, fallback=fallback, draw=draw)
        self._start_control = start_control
        self._make_drafts = partial(
            StreamDrafts,
            turn=self._turn,
            stats=self.stats,
            clock=clock,
            on_event=told,
            worker=worker,
            pickers=pickers or Pickers(),
            fits=fits,
            sources=sources,
        )
        self._drafts: list[StreamDrafts] = []
        self._add_drafts()
        self._control = self._drafts[0].control
        """Of the first stream: what the client is told of."""
        self._shows_drafts = isinstance(request, AskRequest) and request.shows_drafts

    async def run(self) -> AsyncGenerator[GenerationChunk | AnswerHead | AnswerText | AnswerDrafts, None]:
        """Yield committed tokens, and the text of an API's answer, until the turn ends.

        Drafts of the first stream, where they are asked for, after each event that may have changed them.

        Raises `CloudError`, `PairingError`.
        """
        finished = False
        ended_by: str | None = None
        first = self.exchange.streams[0]
        try:
            await self._open_turn()
            if first.request is not None:
                self._drafts[0].begin_lookup()
            while not finished:
                match await self._events.get():
                    case ReceivedCommit() | ReceivedFrame() | TurnLost() as event if (
                        event.opening != self._turn.opening
                    ):
                        pass  # read before the turn was opened again
                    case DraftingEvent(stream, drafting):
                        await self._drafts[stream].on_drafting(drafting)
                    case ReceivedCommit() as event:
                        outcome = self.exchange.apply(event.commit)
                        if _is_replay(event.commit, outcome):
                            continue
                        chunk = self._chunk(event, outcome)
                        self._count(event, outcome)
                        await self._drafts[event.commit.stream].on_commit(event, outcome)
                        self._note_control()
                        finished = self.exchange.is_whole
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
                if self._shows_drafts and first.takes_drafts and self._events.empty():
                    yield AnswerDrafts(tuple(draft.token_id for draft in first.chain.drafted))
        except EdgeError as error:
            ended_by = type(error).__name__
            raise
        finally:
            for drafts in self._drafts:
                drafts.close(ended_by)
            await self._turn.stop(finished=finished)

    # -- what an event changes ------------------------------------------------------------

    async def _on_begun(self, begun: Begun, num_bytes: int) -> None:
        """The server has a prompt: draft from it, or go on drafting after a resumption."""
        self.stats.downlink_bytes += num_bytes
        assert isinstance(self.exchange, ApiExchange)
        is_new = self.exchange.begin(begun)
        await self._turn.send_held()
        for number in range(begun.first, begun.first + len(begun.seeds)):
            if number == len(self._drafts):
                drafts = self._add_drafts()
                drafts.open()
                await drafts.opened(SentFrame(self._clock(), 0))
            await self._drafts[number].begun(is_new=is_new)

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
        if stats.streamed_bytes is not None:
            stats.streamed_bytes += sum(len(each.data) for each in told if isinstance(each, AnswerText))
        if not stats.drafted and isinstance(received.frame, Text) and received.frame.data:
            stats.last_token_s = received.received_s
            stats.first_token_s = stats.first_token_s or received.received_s
        return told

    async def _on_loss(self, error: CloudError) -> None:
        """Open the turn again, if that can help. Raises `error` if not."""
        if isinstance(error, TRANSIENT):
            await self._open_turn(error)
            await self._drafts[0].verify()
        elif isinstance(error, CloudRefused) and error.code == RefusalCode.ABANDONED:
            await self._open_turn()
            await self._drafts[0].resume_alone()
        else:
            raise error

    async def _open_turn(self, lost: Transient | None = None) -> None:
        mode, patience_ms = self._drafts[0].open()
        for drafts in self._drafts[1:]:
            drafts.open()
        sent = await self._turn.open(mode, patience_ms, lost)
        self.stats.uplink_bytes += sent.num_bytes
        for drafts in self._drafts:
            await drafts.opened(sent)
            sent = SentFrame(sent.sent_s, 0)  # one frame opens them all
        self._note_control()

    def _add_drafts(self) -> StreamDrafts:
        number = len(self._drafts)
        stream, control = self.exchange.streams[number], self._start_control()
        self._drafts.append(self._make_drafts(number, stream, control=control))
        return self._drafts[-1]

    # -- what the client is told ----------------------------------------------------------

    def _note_control(self) -> None:
        """Tell the client what is in force, and what streaming would take."""
        in_force, self.stats.in_force_reason = self._control.in_force
        self.stats.in_force, self.stats.streaming_s = str(in_force), self._control.streaming_s

    def _count(self, received: ReceivedCommit, outcome: CommitOutcome) -> None:
        stats = self.stats
        stats.downlink_bytes += received.num_bytes
        stats.target_passes += received.commit.passes
        stats.draft_tokens_verified += outcome.num_verified
        stats.draft_tokens_accepted += outcome.num_accepted
        stats.draft_tokens_discarded += outcome.num_discarded
        stats.completion_tokens += len(outcome.new_tokens)
        stream = self.exchange.streams[received.commit.stream]
        stats.longest_tokens = max(stats.longest_tokens, stream.num_committed)

    def _stamp(self, outcome: CommitOutcome) -> None:
        """The client gets the tokens now."""
        if outcome.new_tokens:
            self.stats.last_token_s = self._clock()
            if self.stats.first_token_s is None:
                self.stats.first_token_s = self.stats.last_token_s

    def _chunk(self, received: ReceivedCommit, outcome: CommitOutcome) -> GenerationChunk:
        reason = received.commit.finish_reason
        finished = None if reason is None else finish_reason(reason)
        stream = received.commit.stream
        return GenerationChunk(
            outcome.new_tokens, finished, self.stats, outcome.sources, outcome.logprobs, stream
        )
