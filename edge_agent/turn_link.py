"""A request's turn on the verifier: opened, resumed on a fresh connection when the line is lost, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from edge_agent.cancellation import cancel_and_wait
from edge_agent.chain import DraftChain
from edge_agent.connection import CloudConnection, ConnectionPool
from edge_agent.errors import CloudError, CloudUnreachable
from edge_agent.generation import FinishReason, GenerationRequest, GenerationStats
from edge_agent.line_watch import LineWatch
from edge_agent.reach import WAIT_DELAY_S, resume_delays
from edge_agent.session_control import CommitReceived, SessionControl
from edge_agent.wire_sampling import wire_sampling
from pipesd_vllm.protocol import Draft, Mode, Open

__all__ = ["LinkEvent", "TurnLink"]

_ENDS: Final = frozenset(FinishReason)
"""Finish reasons of a whole answer; any other ("abort": the server shuts down) leaves it unfinished."""


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
        waits: bool = False,
        watch: LineWatch | None = None,
    ) -> None:
        """`waits`: try without an end to get a connection."""
        self._request = request
        self._pool = pool
        self._stats = stats
        self._control = control
        self._clock = clock
        self._on_event = on_event
        self._waits = waits
        self._watch = watch or LineWatch()
        self._opening = 0
        self._connection: CloudConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._delays_s = resume_delays(without_end=self._waits)
        """Those that are left until the turn makes headway again."""
        self.turn = 0

    async def connect(self) -> CloudConnection:
        """A connection for the turn. Raises `CloudError`, `PairingError`."""
        while True:
            try:
                self._connection = await self._pool.acquire()
            except CloudUnreachable:
                if not self._waits:
                    raise
                await asyncio.sleep(WAIT_DELAY_S)
            else:
                return self._connection

    async def open(self, chain: DraftChain, mode: Mode) -> None:
        """Start the turn with whatever is committed; once more if the kept connection was stale."""
        try:
            num_bytes = await self._send_open(chain, mode)
        except CloudUnreachable:
            await self._require_connection().close()
            await self.connect()
            num_bytes = await self._send_open(chain, mode)
        self._opening += 1
        reading = self._read(self._require_connection(), self.turn, self._opening, num_bytes)
        self._reader = asyncio.create_task(reading)

    def is_current(self, event: LinkEvent) -> bool:
        """Whether the turn has not been opened anew since; what was read before means nothing any more."""
        return event.opening == self._opening

    async def reopen(self, chain: DraftChain, mode: Mode) -> None:
        """Start the turn again from the committed tokens; the server forgets what it had of drafts."""
        await self._stop_reading()
        chain.restart()
        await self.open(chain, mode)

    async def resume(self, chain: DraftChain, mode: Mode, lost: CloudUnreachable) -> None:
        """Rebuild the turn on a fresh connection. Raises `lost` if none can be had, or none helps."""
        if self._connection is not None:
            await self._connection.close()  # one that a server left without ending the turn is still open
        await self._pool.forget_idle()  # what this one was lost to may have hit them as well
        for delay_s in self._delays_s:
            await asyncio.sleep(delay_s)
            try:
                await self.connect()
                await self.reopen(chain, mode)
            except CloudUnreachable:
                continue
            return
        raise lost

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

    async def _send_open(self, chain: DraftChain, mode: Mode) -> int:
        connection = self._require_connection()
        prompt = list(self._request.prompt_token_ids)
        self.turn = connection.next_turn()
        opened = Open(
            turn=self.turn,
            prompt=prompt,
            sampling=wire_sampling(self._request.sampling),
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
        def tell(what: CommitReceived | CloudError) -> None:
            self._on_event(LinkEvent(opening, what))

        try:
            while True:
                commit, num_bytes = await self._watch.receive(connection, turn, num_sent)
                num_sent = 0
                reason = commit.finish_reason
                if reason is not None and reason not in _ENDS:
                    commit = msgspec.structs.replace(commit, finish_reason=None)
                tell(CommitReceived(commit, num_bytes, self._clock()))
                if commit.tokens:
                    self._delays_s = resume_delays(without_end=self._waits)
                if commit.finish_reason is not None:
                    return
                if reason is not None:
                    raise CloudUnreachable(f"the verifier left the answer unfinished ({reason}); try again")
        except CloudError as error:
            tell(error)

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await cancel_and_wait(reader)
