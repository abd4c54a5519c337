"""One exchange's turn on the verifier: opened, opened again on another connection after a loss, ended."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from edge_agent.api import Fallback
from edge_agent.errors import (
    TRANSIENT,
    CloudError,
    CloudMisbehaved,
    CloudOverloaded,
    CloudUnreachable,
    PairingError,
    TargetChanged,
    Transient,
    VerifierTooOld,
)
from edge_agent.session.exchange import Exchange
from edge_agent.session.fallback import retry_policy
from edge_agent.verifier import CloudConnection, ConnectionPool, Keepalive
from pipesd_vllm.wire import Begun, Commit, Control, Draft, Mode, Reply, Text, Welcome

__all__ = ["ReceivedCommit", "ReceivedFrame", "SentFrame", "Turn", "TurnEvent", "TurnLost"]

logger = logging.getLogger("pipesd.edge")


@dataclass(frozen=True, slots=True)
class ReceivedCommit:
    """A commit of the turn as it came in."""

    opening: int
    """Number of the turn's opening (`Turn.opening`) that it was read after."""
    commit: Commit
    """Its finish reason, if any, is a `FinishReason`: no commit of its stream follows."""
    num_bytes: int
    """Size on the wire."""
    received_s: float
    """Seconds of the session's clock."""


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """Another frame of the turn, as `ReceivedCommit`."""

    opening: int
    frame: Begun | Reply | Text
    num_bytes: int
    received_s: float


@dataclass(frozen=True, slots=True)
class TurnLost:
    """No more commits will come after opening number `opening`; `error` says why."""

    opening: int
    error: CloudError


TurnEvent = ReceivedCommit | ReceivedFrame | TurnLost


class SentFrame(NamedTuple):
    """A frame that went up: when sending began, by the session's clock, and its size on the wire."""

    sent_s: float
    num_bytes: int


def _telling_both(first: Transient, error: Transient) -> Transient:
    """`error`, which ended an attempt to go on after `first`."""
    if isinstance(error, CloudOverloaded):
        return error
    return CloudUnreachable(f"{first}; {error}", error.retry_after_s)


class Turn:
    """Sends for one exchange and reads what the server says about it.

    Each frame read, and the loss of the turn, is told to `on_event`. Only this class knows which connection
    serves the request.
    """

    def __init__(
        self,
        exchange: Exchange,
        pool: ConnectionPool,
        clock: Callable[[], float],
        on_event: Callable[[TurnEvent], None],
        *,
        fallback: Fallback = Fallback.ERROR,
        draw: Callable[[], float] = random.random,
        keepalive: Keepalive | None = None,
    ) -> None:
        """`fallback` says how long to try to get a connection; `draw` gives 0 to 1, for the delays."""
        self._exchange = exchange
        self._pool = pool
        self._clock = clock
        self._on_event = on_event
        self._fallback = fallback
        self._draw = draw
        self._keepalive = keepalive or Keepalive()
        self._connection: CloudConnection | None = None
        self._target: Welcome | None = None
        """The target of the last opening; once tokens are committed: the one that began the answer."""
        self._reached = False
        self._num_retries = 0
        """Since the turn last made headway."""
        self._reader: asyncio.Task[None] | None = None
        self._held: list[Control] = []
        self.number = 0
        """The turn's number on its connection."""
        self.opening = 0
        """Number of openings so far. An event of an earlier opening is void: ignore it."""

    @property
    def target(self) -> Welcome:
        """What the server of the last opening said of itself."""
        assert self._target is not None, "open first"
        return self._target

    async def open(self, mode: Mode, patience_ms: int, lost: Transient | None = None) -> SentFrame:
        """Start the turn, or start it again, from the committed tokens; the server then has no drafts.

        After `lost`: on another connection. Tries again as the fallback says (`retry_policy`). Raises
        the last `CloudUnreachable` or `CloudOverloaded` if no attempt succeeds, or helps; `TargetChanged` if
        the target is not the one that began the answer, other `CloudError`, and `PairingError`.
        """
        await self._stop_reading()
        if lost is not None and not self._exchange.can_resume:
            raise lost
        self.opening += 1
        self._held.clear()
        since_s, first = self._clock(), lost
        while True:
            if lost is not None:
                await self._before_retry(lost, since_s)
            try:
                connection = await self._connected()
                sent = await self._send_open(connection, mode, patience_ms)
                break
            except TargetChanged:
                raise
            except TRANSIENT as error:
                lost = error if first is None else _telling_both(first, error)
        self._reached = True
        self._reader = asyncio.create_task(self._read(connection, sent.num_bytes))
        return sent

    async def send(self, frame: Draft | Control) -> SentFrame | None:
        """None if the connection is lost: `TurnLost` follows.

        A `Control` waits for the server to take it (`Stream.takes_drafts`); see `send_held`.
        """
        assert self._connection is not None, "open first"
        if isinstance(frame, Control) and not self._exchange.streams[frame.stream].takes_drafts:
            self._held.append(frame)
            return None
        sent_s = self._clock()
        try:
            return SentFrame(sent_s, await self._connection.send(frame))
        except CloudError:
            return None

    async def send_held(self) -> None:
        """Send what has waited, if the server takes it by now."""
        held, self._held = self._held, []
        for frame in held:
            await self.send(frame)

    async def stop(self, *, finished: bool) -> None:
        """End the turn on the server unless it has `finished`, and give the connection back.

        Goes on by itself if the caller is cancelled meanwhile, or both would be lost.
        """
        await asyncio.shield(self._stop(finished=finished))

    async def _stop(self, *, finished: bool) -> None:
        await self._stop_reading()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not finished:
            await connection.cancel(self.number)
        await self._pool.release(connection)

    # -- opening --------------------------------------------------------------------------

    async def _before_retry(self, lost: Transient, since_s: float) -> None:
        """Let go of what was lost, and wait. Raises `lost` when it is time to give up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.lost(connection, lost.retry_after_s)
        if isinstance(lost, CloudOverloaded):
            if connection is not None:
                await self._pool.release(connection)
        else:
            # A connection that the server left without ending the turn is still open; idle ones may be dead.
            closing = () if connection is None else (connection.close(),)
            await asyncio.gather(*closing, self._pool.forget_idle())
        policy = retry_policy(self._fallback, reached=self._reached, begun=self._exchange.has_begun)
        elapsed_s = self._clock() - since_s
        delay_s = policy.delay_s(lost, self._num_retries, elapsed_s, self._draw())
        if delay_s is None:
            raise lost
        self._num_retries += 1
        if self._num_retries > 1 or not self._pool.has_another:
            await asyncio.sleep(delay_s)

    async def _connected(self) -> CloudConnection:
        """The turn's connection, or a new one: the only way to get one, so that one target gives the answer.

        Raises as `ConnectionPool.acquire`, and `TargetChanged`.
        """
        if self._connection is None:
            connection = await self._acquire()
            self._connection, self._target = connection, connection.welcome
            for stream in self._exchange.streams:
                stream.chain.vocab_size = connection.welcome.vocab_size
        return self._connection

    async def _acquire(self) -> CloudConnection:
        try:
            return await self._pool.acquire(self._target if self._exchange.has_begun else None)
        except PairingError as error:
            if not self._exchange.has_begun:
                raise
            raise TargetChanged(f"another target than the one that began this answer: {error}") from error

    async def _send_open(self, connection: CloudConnection, mode: Mode, patience_ms: int) -> SentFrame:
        self.number = connection.next_turn()
        try:
            opened = self._exchange.opened(connection.welcome, self.number, mode, patience_ms)
        except VerifierTooOld as error:
            if self._exchange.has_begun:
                raise TargetChanged(f"an older server is there now: {error}") from error
            raise
        sent_s = self._clock()
        return SentFrame(sent_s, await self._keepalive.open(connection, opened))

    # -- reading --------------------------------------------------------------------------

    async def _read(self, connection: CloudConnection, num_sent: int) -> None:
        """Until the answer is whole or the turn is lost; `num_sent` bytes may still be on their way up."""
        turn, opening = self.number, self.opening
        finished = False
        try:
            while not finished:
                frame, num_bytes = await self._keepalive.receive(connection, turn, num_sent)
                num_sent = 0
                finished = self._exchange.is_last(frame)
                if isinstance(frame, Commit):
                    self._on_commit(opening, frame, num_bytes)
                else:
                    self._on_event(ReceivedFrame(opening, frame, num_bytes, self._clock()))
                    if isinstance(frame, Text) and frame.data:
                        self._num_retries = 0
        except CloudError as error:
            self._on_event(TurnLost(opening, error))
        except Exception as error:  # a bug must not leave the answer waiting
            logger.exception("reading a turn failed")
            failed = CloudMisbehaved(f"reading the verifier's answer failed: {error!r}")
            failed.__cause__ = error
            self._on_event(TurnLost(opening, failed))

    def _on_commit(self, opening: int, commit: Commit, num_bytes: int) -> None:
        """Tell of it. Raises `CloudUnreachable` if the server leaves the answer unfinished with it."""
        reason = commit.finish_reason
        is_left = reason is not None and reason not in self._exchange.ends
        if is_left:
            commit = msgspec.structs.replace(commit, finish_reason=None)
        self._on_event(ReceivedCommit(opening, commit, num_bytes, self._clock()))
        if commit.tokens:
            self._num_retries = 0
        if is_left:  # "abort": it shuts down
            raise CloudUnreachable(f"the verifier left the answer unfinished ({reason}); try again")

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait({reader})
