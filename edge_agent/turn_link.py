"""A request's turn on the verifier: opened, resumed on a fresh connection when the line is lost, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.cancellation import cancel_and_wait
from edge_agent.chain import DraftChain
from edge_agent.commits import commits
from edge_agent.connection import CloudConnection, ConnectionPool
from edge_agent.errors import CloudError, CloudUnreachable
from edge_agent.generation import GenerationRequest, GenerationStats
from edge_agent.line_watch import LineWatch
from edge_agent.pairing import is_same_target
from edge_agent.reach import WAIT_DELAY_S, resume_delays
from edge_agent.session_control import CommitReceived, SessionControl
from edge_agent.wire_sampling import wire_sampling
from pipesd_vllm.protocol import Draft, Mode, Open

__all__ = ["LinkEvent", "TurnLink"]


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
        """Rebuild the turn on a fresh connection.

        Raises `lost` if none can be had or none helps, and `CloudUnreachable`, too, if another target is
        there by now: an answer is one target's.
        """
        before = self._require_connection()
        await before.close()  # one that a server left without ending the turn is still open
        await self._pool.forget_idle()  # what this one was lost to may have hit them as well
        for delay_s in self._delays_s:
            await asyncio.sleep(delay_s)
            try:
                now = (await self.connect()).welcome
                if self._has_begun(chain) and not is_same_target(before.welcome, now):
                    lost = CloudUnreachable(
                        f"{before.welcome.model} began this answer; {now.model} is there now"
                    )
                    break
                await self.reopen(chain, mode)
            except CloudUnreachable:
                continue
            return
        raise lost

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
        try:
            async for received in commits(self._watch, connection, turn, num_sent, self._clock):
                self._on_event(LinkEvent(opening, received))
                if received.commit.tokens:
                    self._delays_s = resume_delays(without_end=self._waits)
        except CloudError as error:
            self._on_event(LinkEvent(opening, error))

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await cancel_and_wait(reader)
