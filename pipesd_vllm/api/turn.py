"""One turn on the server: a resumable vLLM request fed with draft commands.

The engine's outputs become one append-only committed stream; their boundaries mean nothing
(vLLM merges outputs when the reader is slow).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from vllm.engine.protocol import EngineClient, StreamingInput
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput

from pipesd_vllm.api.turn_params import chunk_params, opening_params, token_logprobs
from pipesd_vllm.api.validation import CloseConnection, RefuseTurn
from pipesd_vllm.scheduling.commands import (
    AddDrafts,
    CloseSession,
    Command,
    GoAlone,
    OpenSession,
    Suspend,
    pack,
)
from pipesd_vllm.scheduling.engine_session import PassReport
from pipesd_vllm.scheduling.stopwatch import Clock, OwnTime
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import CloseReason, Commit, Draft, Mode, Open, RefusalCode

__all__ = ["PatientTimer", "TimerLoop", "later_chunk", "opening_chunk"]


_PLACEHOLDER: Final = (0,)
"""vLLM wants at least one token a chunk; commands without drafts send this one."""


def opening_chunk(opened: Open, cache_salt: str) -> StreamingInput:
    """The first: the prompt, salted for its tenant in vLLM's prefix cache. Raises `RefuseTurn`."""
    num_committed = len(opened.committed)
    command = OpenSession(eager=opened.mode is Mode.LATENCY, num_committed=num_committed)
    params = opening_params(opened.sampling, num_committed, pack(command))
    return StreamingInput(tokens_input([*opened.prompt, *opened.committed], cache_salt=cache_salt), params)


def later_chunk(command: Command, tokens: Sequence[int] = _PLACEHOLDER) -> StreamingInput:
    """Any other: a command, with its draft tokens if it has any."""
    return StreamingInput(tokens_input(list(tokens)), chunk_params(pack(command)))


class TimerLoop(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Any:
        """Returns a handle with `cancel()`."""


class PatientTimer:
    """Calls `action` once when `delay_s` have gone by since the last `restart`.

    A restart only notes the time: the event loop's own timer is set once and, when it runs out early, set
    again for what is left. Cancelling and setting it anew with every frame would cost more than the frame.
    """

    def __init__(self, loop: TimerLoop, delay_s: float, action: Callable[[], None]) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._action = action
        self._due_s = 0.0
        self._handle: Any | None = None

    def restart(self) -> None:
        """Wait the whole delay from now on, whether the timer was running, stopped or done."""
        self._due_s = self._loop.time() + self._delay_s
        if self._handle is None:
            self._handle = self._loop.call_at(self._due_s, self._check)

    def stop(self) -> None:
        """Nothing happens any more until the next `restart`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _check(self) -> None:
        self._handle = None
        if self._loop.time() < self._due_s:
            self._handle = self._loop.call_at(self._due_s, self._check)
        else:
            self._action()


_MAX_PENDING_CHUNKS = 256
_FAILED = (
    "the engine gave this turn up (its structure does not compile, the committed tokens do not have it, or "
    "the server failed on it); the server's log says more"
)

Emit = Callable[[Commit, OwnTime], Awaitable[None]]
_Chunk = tuple[StreamingInput, float | None]
"""What goes to vLLM, and when the draft frame came that asks for a pass; None: no such frame."""


class Turn:
    """Drives one generation; `add` feeds it, `run` emits what the target commits."""

    def __init__(
        self,
        engine: EngineClient,
        request_id: str,
        opened: Open,
        settings: ServerSettings,
        cache_salt: str,
        clock: Clock = time.perf_counter,
    ) -> None:
        """`cache_salt` keeps the tenant's KV blocks apart in vLLM's prefix cache."""
        self.number = opened.turn
        self._engine = engine
        self._request_id = request_id
        self._opened = opened
        self._settings = settings
        self._frontier = len(opened.prompt) + len(opened.committed)
        self._clock = clock
        self._chunks: asyncio.Queue[_Chunk] = asyncio.Queue(_MAX_PENDING_CHUNKS)
        self._chunks.put_nowait((opening_chunk(opened, cache_salt), None))
        self._receive_s: float | None = None
        self._abandoned = asyncio.Event()
        self._timers = self._waiting_timers()
        self._reported = PassReport()
        self._ended = False
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the last commit has been emitted."""
        return self._finished

    @property
    def abandoned(self) -> asyncio.Event:
        """Set when the edge sent nothing to verify for `abandon_after_s`."""
        return self._abandoned

    async def add(self, draft: Draft, received_s: float) -> None:
        """Pass on a draft frame that came at `received_s`.

        Waits (and so slows the sender) when the engine lags behind. Never waits for a turn that has ended;
        drafts for it mean nothing.
        """
        if self._ended:
            return
        command = AddDrafts(draft.first, draft.base, draft.anchor, draft.verify, draft.parents)
        await self._chunks.put((later_chunk(command, draft.tokens), received_s if draft.verify else None))
        if draft.verify and not self._ended:
            self._restart_timers()

    async def run(self, emit: Emit) -> None:
        """Emit commits until the turn ends; cancelling it aborts the request in the engine.

        Raises vLLM's own errors (`EngineDeadError`, validation, admission), `RefuseTurn` when the engine
        gives this turn up, and `CloseConnection` when it gives all of them up.
        """
        params = chunk_params(pack(CloseSession()))
        outputs = self._engine.generate(self._inputs(), params, self._request_id)
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    await self._pass_on(output, emit)
                    if self._finished:
                        return
        finally:
            self._stop_taking()

    async def _pass_on(self, output: RequestOutput, emit: Emit) -> None:
        completion = output.outputs[0]
        if completion.finish_reason == "error":
            raise RefuseTurn(RefusalCode.ENGINE_ERROR, _FAILED)
        if completion.finish_reason == "abort":  # not by us: the engine stops, or is emptied by its operator
            raise CloseConnection(1012, CloseReason.ENGINE_STOPPING, "resume the turn on another connection")
        output_s = self._clock()
        commit = self._commit(output)
        if commit.finish_reason is None:
            self._restart_timers()
        else:
            self._stop_taking()
        await emit(commit, self._own_time(output_s))
        self._finished = commit.finish_reason is not None

    def _stop_taking(self) -> None:
        """The turn is over in the engine: nothing more goes there; a sender that waits in `add` is let go.

        vLLM's data parallel load balancer would book a chunk for a request that has ended as a new request.
        """
        self._stop_timers()
        self._ended = True
        while not self._chunks.empty():
            self._chunks.get_nowait()

    async def _inputs(self) -> AsyncGenerator[StreamingInput, None]:
        while True:
            chunk, received_s = await self._chunks.get()
            if self._ended:
                continue  # from a sender that waited for room; to end here would be one more chunk
            if received_s is not None:
                self._receive_s = self._clock() - received_s
            yield chunk

    def _commit(self, output: RequestOutput) -> Commit:
        completion = output.outputs[0]
        tokens = list(completion.token_ids)
        total = PassReport.unpack(output.kv_transfer_params) or self._reported
        seen, self._reported = self._reported, total
        commit = Commit(
            turn=self.number,
            base=self._frontier,
            tokens=tokens,
            passes=total.passes - seen.passes,
            drafted=total.drafted - seen.drafted,
            accepted=total.accepted - seen.accepted,
            queue_ms=round(total.queue_ms, 3),
            step_ms=round(total.step_ms, 3),
            finish_reason=completion.finish_reason,
            logprobs=token_logprobs(tokens, completion.logprobs, self._opened.sampling.logprobs),
        )
        self._frontier += len(tokens)
        return commit

    def _own_time(self, output_s: float) -> OwnTime:
        receive_s, self._receive_s = self._receive_s, None
        return OwnTime(receive_s, self._reported.own_ms / 1e3, output_s)

    # -- waiting for the edge -------------------------------------------------------------

    def _waiting_timers(self) -> list[PatientTimer]:
        opened, settings = self._opened, self._settings
        waits: list[tuple[float, Callable[[], None]]] = []
        if opened.mode is not Mode.LATENCY:
            waits += (
                (settings.suspend_after_s, self._suspend),
                (settings.abandon_after_s, self._abandoned.set),
            )
        if opened.mode is Mode.BALANCED:
            waits.append((opened.patience_ms / 1e3, self._go_alone))
        loop = asyncio.get_running_loop()
        return [PatientTimer(loop, delay_s, action) for delay_s, action in waits]

    def _restart_timers(self) -> None:
        for timer in self._timers:
            timer.restart()

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.stop()

    def _go_alone(self) -> None:
        if self._command(GoAlone(self._frontier)):
            self._stop_timers()  # from here on it is the engine that is waited for

    def _suspend(self) -> None:
        self._command(Suspend())

    def _command(self, command: Command) -> bool:
        """Whether it was passed on. A full queue means that drafts are on their way: no need to wait."""
        try:
            self._chunks.put_nowait((later_chunk(command), None))
        except asyncio.QueueFull:
            return False
        return True
