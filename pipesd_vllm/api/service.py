"""One edge connection: reads frames, runs turns, sends commits."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from starlette.websockets import WebSocket
from vllm.engine.protocol import EngineClient
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_vllm import compat
from pipesd_vllm.api.admission import Tenant, TokenBucket
from pipesd_vllm.api.edge_socket import EdgeLeft, EdgeSocket, Message, Parts, read_event
from pipesd_vllm.api.exchange import Exchange
from pipesd_vllm.api.metrics import Overhead, ServerMetrics
from pipesd_vllm.api.session_engine import AskSession
from pipesd_vllm.api.turn import Opening, PatientTimer, Turn
from pipesd_vllm.api.validation import (
    CloseConnection,
    RefuseTurn,
    check_ask,
    check_draft,
    check_open,
    engine_died,
)
from pipesd_vllm.scheduling import Clock
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    Ask,
    CloseReason,
    Commit,
    Control,
    Draft,
    Open,
    RefusalCode,
    Refused,
    Welcome,
)

__all__ = ["SessionConnection"]

logger = logging.getLogger("vllm.pipesd")

_DRAFTS_A_FRAME: Final = 16
"""Drafts that cost a connection as much of its share as a frame does."""


class SessionConnection:
    """Serves one accepted WebSocket until either side leaves."""

    def __init__(
        self,
        websocket: WebSocket,
        engine: EngineClient,
        welcome: Welcome,
        settings: ServerSettings,
        metrics: ServerMetrics,
        cache_salt: str,
        *,
        clock: Clock = time.perf_counter,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        tenant: Tenant | None = None,
    ) -> None:
        """`tenant`: the limits that it shares; None: there are none."""
        self._scope = websocket.scope
        self._socket = EdgeSocket(websocket, settings.send_timeout_s)
        self._parts = Parts(settings.max_message_bytes)
        self._engine = engine
        self._welcome = welcome
        self._settings = settings
        self._metrics = metrics
        self._cache_salt = cache_salt
        self._clock = clock
        self._new_id = new_id
        self._tenant = tenant or Tenant()
        self._frames = TokenBucket(settings.max_frames_s, settings.max_frames_s, clock)
        self._turn: Turn | Exchange | None = None
        self._turn_task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Future[CloseConnection] = self._loop.create_future()
        self._idle_timer = PatientTimer(self._loop, settings.idle_timeout_s, self._on_idle)

    async def serve(self) -> None:
        """Run until the connection ends; never raises for what the edge did."""
        reader = asyncio.create_task(self._read())
        self._idle_timer.restart()
        try:
            await self._socket.send(self._welcome)
            ends: list[asyncio.Future[Any]] = [reader, self._closing]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._closing.done():
                raise self._closing.result()
            await reader
        except CloseConnection as error:
            self._metrics.closed.labels(str(error.reason)).inc()
            await self._socket.close(error)
        except EdgeLeft as error:
            logger.debug("edge left: %s", error)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await self._end_turn()
            self._idle_timer.stop()

    # -- idling ---------------------------------------------------------------------------

    def _on_idle(self) -> None:
        if self._turn is None:
            self._close_soon(CloseConnection(1000, CloseReason.IDLE, "no turn for a while; reconnect"))

    def _close_soon(self, error: CloseConnection) -> None:
        if not self._closing.done():
            self._closing.set_result(error)

    # -- reading --------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            event = await self._socket.receive()
            received_s = self._clock()
            self._idle_timer.restart()
            message = read_event(event)
            if message is None:
                return
            whole = self._parts.add(message)
            if whole is not None:
                await self._handle(whole, received_s)
            # Who sends too much is read no faster: TCP holds the sender up, and nobody else.
            num_drafts = len(message.tokens) if isinstance(message, Draft) else 0
            if (wait_s := self._frames.take(1.0 + num_drafts / _DRAFTS_A_FRAME)) > 0.0:
                self._metrics.throttled.inc()
                await asyncio.sleep(wait_s)

    async def _handle(self, message: Message, received_s: float) -> None:
        if isinstance(message, Open):
            await self._open(message)
        elif isinstance(message, Ask):
            await self._answer(message)
        elif isinstance(message, Draft):
            check_draft(message, self._welcome)
            self._loop.call_soon(self._metrics.count_draft, message)
            if self._turn is not None and self._turn.number == message.turn:
                await self._turn.add(message, received_s)
        elif self._turn is None or self._turn.number != message.turn:
            pass  # it has ended
        elif isinstance(message, Control):
            await self._turn.control(message)
        else:
            await self._end_turn()

    # -- turns ----------------------------------------------------------------------------

    async def _open(self, opened: Open) -> None:
        await self._end_turn()
        try:
            check_open(opened, self._welcome)
            self._tenant.begin_turn()
            request_id = f"pipesd-{self._new_id()}"
            adapter = self._adapter(opened.adapter) if opened.adapter else None
            opening = Opening.of(opened, self._cache_salt, adapter)
            turn = Turn(self._engine, request_id, opening, self._settings, self._clock, self._tenant)
        except RefuseTurn as refusal:
            await self._refuse(opened.turn, refusal)
            return
        self._start(turn)

    def _adapter(self, name: str) -> LoRARequest:
        adapter = compat.served_adapter(self._scope["app"].state, name)
        if adapter is None:
            raise RefuseTurn(RefusalCode.UNKNOWN_ADAPTER, f"the server has no LoRA adapter {name!r}")
        return adapter

    async def _answer(self, ask: Ask) -> None:
        await self._end_turn()
        check_ask(ask, self._welcome)
        try:
            self._tenant.begin_turn()
        except RefuseTurn as refusal:
            await self._refuse(ask.turn, refusal)
            return
        session = AskSession(
            ask,
            self._engine,
            self._settings,
            self._cache_salt,
            self._socket.send,
            self._emit,
            self._clock,
            self._new_id,
            self._tenant,
        )
        self._start(Exchange(ask, self._scope, session, self._socket.send))

    def _start(self, turn: Turn | Exchange) -> None:
        self._turn = turn
        self._turn_task = asyncio.create_task(self._run_turn(turn))

    async def _end_turn(self) -> None:
        task, self._turn, self._turn_task = self._turn_task, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run_turn(self, turn: Turn | Exchange) -> None:
        reason = "cancelled"
        self._metrics.open_turns.inc()
        try:
            reason = await self._drive(turn)
        except CloseConnection as error:
            reason = str(error.reason)
            self._close_soon(error)
        except EdgeLeft as error:
            reason = "disconnected"
            logger.debug("edge left in mid-turn: %s", error)
        finally:
            if self._turn is turn:
                self._turn = None
                self._idle_timer.restart()
            # An edge that has the last commit may go on before the engine has wound up.
            self._metrics.open_turns.dec()
            self._metrics.turns.labels("finished" if turn.finished else reason).inc()

    async def _drive(self, turn: Turn | Exchange) -> str:
        """Run the turn until it ends or its edge has abandoned it; returns how it ended."""
        running = turn.run(self._emit) if isinstance(turn, Turn) else turn.run()
        run = asyncio.create_task(running)
        abandoned = asyncio.create_task(turn.abandoned.wait())
        try:
            await asyncio.wait([run, abandoned], return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                return await self._outcome(turn, run)
            refusal = RefuseTurn(RefusalCode.ABANDONED, "no drafts came; open the turn again")
            await self._refuse(turn.number, refusal)
            return "abandoned"
        finally:
            run.cancel()
            abandoned.cancel()
            await asyncio.gather(run, abandoned, return_exceptions=True)

    async def _outcome(self, turn: Turn | Exchange, run: asyncio.Task[None]) -> str:
        error = run.exception()
        if error is None:
            return "finished"
        if isinstance(error, EngineDeadError):
            raise engine_died() from error
        if isinstance(error, CloseConnection | EdgeLeft):
            raise error
        logger.warning("turn failed: %r", error)
        if not isinstance(error, RefuseTurn):
            error = RefuseTurn(_refusal_code(error), str(error) or type(error).__name__)
        await self._refuse(turn.number, error)
        return str(error.code)

    # -- writing --------------------------------------------------------------------------

    async def _emit(self, commit: Commit, overhead: Overhead) -> None:
        try:
            await self._socket.send(commit)
        finally:
            # The edge waits for the commit and nobody for the counters, so what is ready to run goes first.
            send_s = self._clock() - overhead.output_s
            count = self._metrics.count_commit
            self._loop.call_soon(count, commit, overhead, send_s, self._tenant.name)

    async def _refuse(self, turn: int, refusal: RefuseTurn) -> None:
        await self._socket.send(Refused(turn, refusal.code, str(refusal), refusal.retry_after_s))


def _refusal_code(error: BaseException) -> RefusalCode:
    """The code for what vLLM raised; vLLM checks parameters only when it takes a request in."""
    if compat.is_overload(error):
        return RefusalCode.OVERLOADED
    if isinstance(error, VLLMClientError | ValueError):
        return RefusalCode.BAD_SAMPLING
    return RefusalCode.ENGINE_ERROR
