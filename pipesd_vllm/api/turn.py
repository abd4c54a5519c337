"""One turn on the server: a resumable vLLM request fed with commands.

Draft frames and timers become chunks of the request's input (`opening_chunk`, `later_chunk`); the request's
outputs become one append-only committed stream. Where an output ends means nothing: vLLM merges outputs when
the reader is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vllm.engine.protocol import EngineClient, StreamingInput
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput

from pipesd_vllm import compat
from pipesd_vllm.api.admission import Hold, Tenant
from pipesd_vllm.api.metrics import Overhead
from pipesd_vllm.api.turn_params import chunk_params, opening_params, token_logprobs
from pipesd_vllm.api.validation import RefuseTurn, engine_stops
from pipesd_vllm.scheduling import (
    AddDrafts,
    Clock,
    CloseSession,
    Command,
    DecodeAlone,
    OpenSession,
    PassReport,
    SetEager,
    Suspend,
    pack_command,
)
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import Commit, Control, Draft, Mode, Open, RefusalCode

__all__ = ["Emit", "Opening", "PatientTimer", "TimerLoop", "Turn", "later_chunk", "opening_chunk"]

_MAX_PENDING_CHUNKS: Final = 256
_REMEMBERED: Final = 64
"""Commits that drafts may still answer: those of a round trip."""
_PLACEHOLDER: Final = (0,)
"""vLLM wants at least one token a chunk; commands without drafts send this one."""

Emit = Callable[[Commit, Overhead], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One piece of the request's input on its way to vLLM."""

    input: StreamingInput
    received_s: float | None = None
    """When the draft frame arrived that asks for a pass; None: the chunk comes from no such frame."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a turn's request starts with, and how it waits for its edge."""

    turn: int
    input: StreamingInput
    frontier: int
    """The position of the first token that it will commit."""
    mode: Mode
    patience_ms: int
    logprobs: int | None = None
    stream: int = 0
    ends_unattended: bool = True
    """Without drafts for `abandon_after_s` it ends; or else it decodes alone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More keywords of the engine's `generate`."""

    @classmethod
    def of(cls, opened: Open, cache_salt: str, lora_request: LoRARequest | None = None) -> Opening:
        """For a turn opened with token ids; the salt keeps the tenant's KV blocks apart.

        Raises `RefuseTurn`.
        """
        chunk = opening_chunk(opened, cache_salt)
        frontier = len(opened.prompt) + len(opened.committed)
        return cls(
            opened.turn,
            chunk,
            frontier,
            opened.mode,
            opened.patience_ms,
            opened.sampling.logprobs,
            options={} if lora_request is None else {"lora_request": lora_request},
        )


class Turn:
    """Drives one request in the engine: `add` feeds it drafts, `run` emits what the target commits.

    Input, output and the waiting for the edge follow each other below.
    """

    def __init__(
        self,
        engine: EngineClient,
        request_id: str,
        opening: Opening,
        settings: ServerSettings,
        clock: Clock = time.perf_counter,
        tenant: Tenant | None = None,
    ) -> None:
        """`tenant`: whose room it takes; None: there is room for all."""
        self.number = opening.turn
        self.num_cached_tokens = 0
        """Of the prompt, found in vLLM's prefix cache."""
        self._engine = engine
        self._request_id = request_id
        self._opening = opening
        self._mode, self._patience_ms = opening.mode, opening.patience_ms
        self._settings = settings
        self._frontier = opening.frontier
        self._tenant = tenant or Tenant()
        self._hold: Hold | None = None
        self._reached: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        """Frontiers that commits led to, and when."""
        self._clock = clock
        self._chunks: asyncio.Queue[_Chunk] = asyncio.Queue(_MAX_PENDING_CHUNKS)
        self._chunks.put_nowait(_Chunk(opening.input))
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

    async def run(self, emit: Emit) -> None:
        """Emit commits until the turn ends; cancelling it aborts the request in the engine.

        Raises vLLM's own errors (`EngineDeadError`, validation, admission), `RefuseTurn` if there is no room
        or the engine gives this turn up, and `CloseConnection` if it gives all turns up.
        """
        self._hold = self._tenant.hold(self._frontier)
        params = chunk_params(pack_command(CloseSession()))
        outputs = self._engine.generate(self._input(), params, self._request_id, **self._opening.options)
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    await self._handle(output, emit)
                    if self._finished:
                        return
        finally:
            self._hold.suspend()
            self.end()

    # -- input: drafts and commands -------------------------------------------------------

    async def add(self, draft: Draft, received_s: float) -> None:
        """Pass on a draft frame that arrived at `received_s`.

        Waits, and so slows the sender, when the engine lags behind. Drafts for a turn that has ended mean
        nothing and wait for nothing.
        """
        if self._ended:
            return
        delay_s = None if draft.anchor else self._delay_s(draft.base, received_s)
        command = AddDrafts(
            draft.first, draft.base, draft.anchor, draft.verify, draft.parents, draft.confidences, delay_s
        )
        chunk = later_chunk(command, draft.tokens)
        await self._chunks.put(_Chunk(chunk, received_s if draft.verify else None))
        if draft.verify and not self._ended:
            self._resume()
            self._restart_timers()

    def _delay_s(self, base: int, received_s: float) -> float | None:
        """Since the text reached `base`, where drafts that have come begin: their edge had heard of that."""
        found = next((reached_s for frontier, reached_s in self._reached if frontier == base), None)
        return None if found is None else received_s - found

    async def control(self, control: Control) -> None:
        """Wait for the edge in another way from now on."""
        if self._ended:
            return
        if control.mode is not None:
            self._mode = control.mode
            await self._chunks.put(_Chunk(later_chunk(SetEager(control.mode is Mode.LATENCY))))
        if control.patience_ms is not None:
            self._patience_ms = control.patience_ms
        if control.alone:
            await self._chunks.put(_Chunk(later_chunk(DecodeAlone())))
        if not self._ended:
            self._resume()
        self._stop_timers()
        self._timers = self._waiting_timers()
        if not (self._ended or control.alone):
            self._restart_timers()

    async def _input(self) -> AsyncGenerator[StreamingInput, None]:
        while True:
            chunk = await self._chunks.get()
            if self._ended:
                continue  # from a sender that waited for room; to end here would be one more chunk
            if chunk.received_s is not None:
                self._receive_s = self._clock() - chunk.received_s
            yield chunk.input

    def end(self) -> None:
        """Send the engine nothing more, and release a sender that waits in `add`: the turn is over there.

        vLLM's data parallel load balancer would book a chunk for a request that has ended as a new request.
        """
        self._stop_timers()
        self._ended = True
        while not self._chunks.empty():
            self._chunks.get_nowait()

    # -- output: the committed stream -----------------------------------------------------

    async def _handle(self, output: RequestOutput, emit: Emit) -> None:
        completion = output.outputs[0]
        if completion.finish_reason == "error":
            raise RefuseTurn(RefusalCode.ENGINE_ERROR, compat.GIVEN_UP)
        if completion.finish_reason == "abort":  # not ours: the engine stops or is drained
            raise engine_stops()
        output_s = self._clock()
        self.num_cached_tokens = output.num_cached_tokens or 0
        commit = self._commit(output)
        self._reached.append((self._frontier, output_s))
        if commit.finish_reason is None:
            self._restart_timers()
        else:
            self.end()
        receive_s, self._receive_s = self._receive_s, None
        report = self._reported
        await emit(commit, Overhead(receive_s, report.overhead_ms / 1e3, output_s, report))
        self._finished = commit.finish_reason is not None

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
            logprobs=token_logprobs(tokens, completion.logprobs, self._opening.logprobs),
            stream=self._opening.stream,
            stop_reason=completion.stop_reason,
            cap=total.cap,
            resumed=total.resumed - seen.resumed,
        )
        self._frontier += len(tokens)
        if self._hold is not None:
            self._hold.grow(len(tokens))
        return commit

    # -- waiting for the edge -------------------------------------------------------------

    def _waiting_timers(self) -> list[PatientTimer]:
        settings = self._settings
        abandon = self._abandoned.set if self._opening.ends_unattended else self._decode_alone
        waits: list[tuple[float, Callable[[], None]]] = []
        if self._mode is not Mode.LATENCY:
            waits += ((settings.suspend_after_s, self._suspend), (settings.abandon_after_s, abandon))
        if self._mode is Mode.BALANCED:
            waits.append((self._patience_ms / 1e3, self._decode_alone))
        loop = asyncio.get_running_loop()
        return [PatientTimer(loop, delay_s, action) for delay_s, action in waits]

    def _restart_timers(self) -> None:
        for timer in self._timers:
            timer.restart()

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.stop()

    def _decode_alone(self) -> None:
        if self._command(DecodeAlone(self._frontier)):
            self._resume()
            self._stop_timers()  # from here on the turn waits for the engine

    def _suspend(self) -> None:
        if self._command(Suspend()) and self._hold is not None:
            self._hold.suspend()

    def _resume(self) -> None:
        if self._hold is not None:
            self._hold.resume()

    def _command(self, command: Command) -> bool:
        """Pass `command` on; False if the queue is full: drafts are under way then."""
        try:
            self._chunks.put_nowait(_Chunk(later_chunk(command)))
        except asyncio.QueueFull:
            return False
        return True


def opening_chunk(opened: Open, cache_salt: str) -> StreamingInput:
    """The first chunk: the prompt, salted for its tenant in vLLM's prefix cache. Raises `RefuseTurn`."""
    command = OpenSession(opened.mode is Mode.LATENCY, opened.committed, tenant=cache_salt)
    params = opening_params(opened.sampling, pack_command(command))
    return StreamingInput(tokens_input(list(opened.prompt), cache_salt=cache_salt), params)


def later_chunk(command: Command, tokens: Sequence[int] = _PLACEHOLDER) -> StreamingInput:
    """A chunk after the first: a command, with its draft tokens if it has any."""
    return StreamingInput(tokens_input(list(tokens)), chunk_params(pack_command(command)))


class TimerLoop(Protocol):
    """The part of an event loop that a timer uses."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Any:
        """Returns a handle with `cancel()`."""


class PatientTimer:
    """Calls `action` once when `delay_s` have passed since the last `restart`.

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
        """Do nothing until the next `restart`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _check(self) -> None:
        self._handle = None
        if self._loop.time() < self._due_s:
            self._handle = self._loop.call_at(self._due_s, self._check)
        else:
            self._action()
