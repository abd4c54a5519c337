"""A request's turn on the verifier: opened, opened again on a fresh connection after a loss, ended."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from edge_agent.api import Fallback, FinishReason, GenerationRequest, GenerationStats
from edge_agent.errors import (
    TRANSIENT,
    CloudError,
    CloudMisbehaved,
    CloudOverloaded,
    CloudUnreachable,
    PairingError,
    TargetChanged,
    Transient,
)
from edge_agent.session.chain import DraftChain
from edge_agent.session.control import CommitReceived, SessionControl
from edge_agent.session.fallback import retry_policy
from edge_agent.verifier.connection import CloudConnection, ConnectionPool
from edge_agent.verifier.keepalive import LineWatch, cancel_and_wait
from edge_agent.verifier.target import check_same_target
from pipesd_vllm.wire import Draft, Mode, Open, Welcome

__all__ = ["LinkEvent", "TurnLink", "commits"]


_ENDS: Final = frozenset(FinishReason)
"""Finish reasons of a whole answer; any other ("abort": the server shuts down) leaves it unfinished."""


async def commits(
    watch: LineWatch, connection: CloudConnection, turn: int, num_sent: int, clock: Callable[[], float]
) -> AsyncIterator[CommitReceived]:
    """Those of `turn`, the last one with its finish reason; `num_sent`: bytes that are under way up.

    Raises `CloudError`, `CloudUnreachable` among them if the server ends the turn before the answer is whole.
    """
    while True:
        commit, num_bytes = await watch.receive(connection, turn, num_sent)
        num_sent = 0
        reason = commit.finish_reason
        if reason is not None and reason not in _ENDS:
            commit = msgspec.structs.replace(commit, finish_reason=None)
        yield CommitReceived(commit, num_bytes, clock())
        if commit.finish_reason is not None:
            return
        if reason is not None:
            raise CloudUnreachable(f"the verifier left the answer unfinished ({reason}); try again")


logger = logging.getLogger("pipesd.edge")


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """What was read since the turn's opening number `opening`: a commit, or why there is none."""

    opening: int
    what: CommitReceived | CloudError


class TurnLink:
    """Sends for one request and reads what the server says about it.

    Everything read arrives as a `LinkEvent` in `on_event`; a lost line is one, too. Which
    turn number and which connection serve the request is known only here.
    """

    def __init__(
        self,
        request: GenerationRequest,
        pool: ConnectionPool,
        stats: GenerationStats,
        control: SessionControl,
        clock: Callable[[], float],
        on_event: Callable[[LinkEvent], None],
        *,
        fallback: Fallback = Fallback.ERROR,
        draw: Callable[[], float] = random.random,
        watch: LineWatch | None = None,
    ) -> None:
        """`fallback` says how long to try to get a connection; `draw` gives 0 to 1, for the delays."""
        self._request = request
        self._pool = pool
        self._stats = stats
        self._control = control
        self._clock = clock
        self._on_event = on_event
        self._fallback = fallback
        self._draw = draw
        self._watch = watch or LineWatch()
        self._opening = 0
        self._connection: CloudConnection | None = None
        self._target: Welcome | None = None
        """The one the turn was opened with last; once something is committed: that began the answer."""
        self._reached = False
        self._num_retries = 0
        """Since the turn last made headway."""
        self._reader: asyncio.Task[None] | None = None
        self.turn = 0

    def is_current(self, event: LinkEvent) -> bool:
        """Whether the turn has not been opened anew since; what was read before means nothing any more."""
        return event.opening == self._opening

    async def open(self, chain: DraftChain, mode: Mode, lost: Transient | None = None) -> None:
        """Start the turn, or start it again, from the committed tokens; the server has no drafts then.

        After `lost`: on another connection. Tries again as the fallback says (`retry_policy`). Raises
        the last `CloudUnreachable` or `CloudOverloaded` if none helps, `TargetChanged` if another target is
        there than the one that began the answer, other `CloudError`, and `PairingError`.
        """
        await self._stop_reading()
        self._opening += 1
        since_s = self._clock()
        while True:
            if lost is not None:
                await self._before_retry(chain, lost, since_s)
            try:
                num_bytes = await self._send_open(await self._connected(chain), chain, mode)
                break
            except TargetChanged:
                raise
            except TRANSIENT as error:
                lost = error
        self._reached = True
        reading = self._read(self._require_connection(), self.turn, self._opening, num_bytes)
        self._reader = asyncio.create_task(reading)

    async def _before_retry(self, chain: DraftChain, lost: Transient, since_s: float) -> None:
        """Let go of what was lost, and wait. Raises `lost` when it is time to give up."""
        connection, self._connection = self._connection, None
        if isinstance(lost, CloudOverloaded):
            if connection is not None:
                await self._pool.release(connection)
        else:  # one that a server left without ending the turn is still open; idle ones may be as dead
            closing = () if connection is None else (connection.close(),)
            await asyncio.gather(*closing, self._pool.forget_idle())
        policy = retry_policy(self._fallback, reached=self._reached, begun=self._has_begun(chain))
        elapsed_s = self._clock() - since_s
        delay_s = policy.delay_s(lost, self._num_retries, elapsed_s, self._draw())
        if delay_s is None:
            raise lost
        self._num_retries += 1
        await asyncio.sleep(delay_s)

    async def _connected(self, chain: DraftChain) -> CloudConnection:
        """The turn's connection, or a new one: the only way to one, so that an answer is one target's.

        Raises as `ConnectionPool.acquire`, and `TargetChanged`.
        """
        if self._connection is None:
            connection = await self._acquire(chain)
            try:
                if self._has_begun(chain) and self._target is not None:
                    check_same_target(self._target, connection.welcome)
            except TargetChanged:
                await self._pool.release(connection)
                raise
            self._connection, self._target = connection, connection.welcome
            chain.vocab_size = connection.welcome.vocab_size
        return self._connection

    async def _acquire(self, chain: DraftChain) -> CloudConnection:
        try:
            return await self._pool.acquire()
        except PairingError as error:
            if not self._has_begun(chain):
                raise
            raise TargetChanged(f"another target than the one that began this answer: {error}") from error

    def _has_begun(self, chain: DraftChain) -> bool:
        return chain.frontier > len(self._request.prompt_token_ids)

    async def send(self, draft: Draft, *, awaiting_commit: bool) -> bool:
        """Upload drafts; False if the line is lost (the reader says so)."""
        sent_s = self._clock()
        try:
            num_bytes = await self._require_connection().send(draft)
        except CloudError:
            return False
        self._control.on_sent(sent_s, draft, num_bytes, awaiting_commit=awaiting_commit)
        self._stats.draft_tokens_sent += len(draft.tokens)
        self._stats.uplink_draft_bytes += num_bytes
        self._stats.uplink_bytes += num_bytes
        return True

    async def stop(self, *, finished: bool) -> None:
        """End the turn on the server unless it has ended, and give the connection back.

        Goes on by itself when the caller is cancelled meanwhile, or both would be lost.
        """
        await asyncio.shield(self._stop(finished=finished))

    async def _stop(self, *, finished: bool) -> None:
        await self._stop_reading()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not finished:
            await connection.cancel(self.turn)
        await self._pool.release(connection)

    async def _send_open(self, connection: CloudConnection, chain: DraftChain, mode: Mode) -> int:
        chain.restart()
        prompt = list(self._request.prompt_token_ids)
        self.turn = connection.next_turn()
        opened = Open(
            turn=self.turn,
            prompt=prompt,
            sampling=self._request.sampling,
            mode=mode,
            patience_ms=self._control.patience_ms,
            committed=chain.tokens[len(prompt) :],
        )
        sent_s = self._clock()
        num_bytes = await self._watch.open(connection, opened)
        self._stats.uplink_bytes += num_bytes
        self._control.on_opened(sent_s, num_bytes, opened.patience_ms)
        return num_bytes

    def _require_connection(self) -> CloudConnection:
        assert self._connection is not None, "connect first"
        return self._connection

    async def _read(self, connection: CloudConnection, turn: int, opening: int, num_sent: int) -> None:
        try:
            async for received in commits(self._watch, connection, turn, num_sent, self._clock):
                self._on_event(LinkEvent(opening, received))
                if received.commit.tokens:
                    self._num_retries = 0
        except CloudError as error:
            self._on_event(LinkEvent(opening, error))
        except Exception as error:  # a bug must not leave the answer waiting
            logger.exception("reading a turn failed")
            failed = CloudMisbehaved(f"reading the verifier's answer failed: {error!r}")
            failed.__cause__ = error
            self._on_event(LinkEvent(opening, failed))

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await cancel_and_wait(reader)
