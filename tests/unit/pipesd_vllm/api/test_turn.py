"""What a turn tells the engine, when it gives up waiting for its edge, and the timers that it waits with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.engine.protocol import StreamingInput

from pipesd_vllm.api.metrics import Overhead
from pipesd_vllm.api.turn import Opening, PatientTimer, Turn, later_chunk, opening_chunk
from pipesd_vllm.scheduling import AddDrafts, Command, DecodeAlone, OpenSession, Suspend, unpack_command
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import Commit, Draft, Mode, Open, Sampling

NEVER_S = 1e6


class IdleEngine:
    """Commits one token, then takes what comes and commits nothing more; `chunks` are what came."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[StreamingInput] = asyncio.Queue()

    async def generate(
        self, inputs: AsyncGenerator[StreamingInput, None], params: object, request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.chunks.put_nowait(await anext(inputs))
        completion = SimpleNamespace(token_ids=[7], finish_reason=None, stop_reason=None, logprobs=None)
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None, num_cached_tokens=0)
        async for chunk in inputs:
            self.chunks.put_nowait(chunk)

    async def command(self) -> Command | None:
        """The next command that came."""
        chunk = await asyncio.wait_for(self.chunks.get(), 30.0)
        assert chunk.sampling_params is not None
        return unpack_command(chunk.sampling_params.extra_args)


async def ignore(commit: Commit, overhead: Overhead) -> None:
    """Nobody is told of commits."""


def turn_of(engine: IdleEngine, mode: Mode, patience_s: float, **limits: float) -> Turn:
    opened = Open(1, [1, 2, 3], Sampling(9), mode, round(patience_s * 1e3))
    return Turn(engine, "request", Opening.of(opened, "salt"), ServerSettings(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [Mode.BALANCED, Mode.OFFLOAD])
async def test_a_waiting_turn_gives_its_blocks_back_and_ends(mode: Mode) -> None:
    """Also while it is patient: after the suspend time its KV, after the abandon time itself."""
    engine = IdleEngine()
    turn = turn_of(engine, mode, NEVER_S, suspend_after_s=0.05, abandon_after_s=0.2)
    running = asyncio.create_task(turn.run(ignore))
    assert isinstance(await engine.command(), OpenSession)
    assert await engine.command() == Suspend()
    await asyncio.wait_for(turn.abandoned.wait(), 30.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_turn_left_to_the_engine_is_not_abandoned() -> None:
    """Once its patience is over, it waits for the engine alone, however long that takes."""
    engine = IdleEngine()
    turn = turn_of(engine, Mode.BALANCED, 0.05, suspend_after_s=0.1, abandon_after_s=0.2)
    running = asyncio.create_task(turn.run(ignore))
    assert isinstance(await engine.command(), OpenSession)
    assert await engine.command() == DecodeAlone(4)
    await asyncio.sleep(0.5)
    assert engine.chunks.empty()
    assert not turn.abandoned.is_set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class EndingEngine(IdleEngine):
    """Ends the turn with one token; `chunks` are what came after the opening, the end included."""

    async def generate(
        self, inputs: AsyncGenerator[StreamingInput, None], params: object, request_id: str
    ) -> AsyncGenerator[Any, None]:
        await anext(inputs)
        reading = asyncio.create_task(self._read(inputs))
        completion = SimpleNamespace(token_ids=[7], finish_reason="length", stop_reason=None, logprobs=None)
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None, num_cached_tokens=0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, inputs: AsyncGenerator[StreamingInput, None]) -> None:
        async for chunk in inputs:
            self.chunks.put_nowait(chunk)
        self.chunks.put_nowait(StreamingInput("the end of the input makes vLLM send a chunk, too"))


async def test_an_ended_turn_sends_the_engine_nothing_more() -> None:
    """Drafts that come while the last commit is on its way to a slow edge reach no engine."""
    engine = EndingEngine()
    turn = turn_of(engine, Mode.BALANCED, 0.01, suspend_after_s=0.02)

    async def slow_edge(commit: Commit, overhead: Overhead) -> None:
        await turn.add(Draft(turn=1, first=1, base=4, anchor=0, tokens=[5], verify=True), 0.0)
        await asyncio.sleep(0.1)  # time enough for what must not come

    await asyncio.wait_for(turn.run(slow_edge), 30.0)
    assert turn.finished
    assert engine.chunks.empty()


# -- chunks --------------------------------------------------------------------------------


def test_the_first_chunk_is_the_prompt_with_the_tenants_salt() -> None:
    """vLLM hashes the salt into the KV blocks; tokens brought along count as generated."""
    chunk = opening_chunk(Open(1, [1, 2, 3], Sampling(9), Mode.LATENCY, committed=[4]), "salt")
    assert chunk.prompt == {"type": "token", "prompt_token_ids": [1, 2, 3], "cache_salt": "salt"}
    assert chunk.sampling_params.max_tokens == 9
    assert unpack_command(chunk.sampling_params.extra_args) == OpenSession(True, [4], tenant="salt")


def test_later_chunks_carry_commands() -> None:
    """With their drafts; one without drafts has a token all the same, as vLLM wants it."""
    drafts = AddDrafts(1, 4, 0, True, None)
    assert later_chunk(drafts, [5, 6]).prompt["prompt_token_ids"] == [5, 6]
    assert unpack_command(later_chunk(drafts, [5, 6]).sampling_params.extra_args) == drafts
    assert len(later_chunk(Suspend()).prompt["prompt_token_ids"]) == 1


# -- timers --------------------------------------------------------------------------------


class Handle:
    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class HandMovedLoop:
    """An event loop's clock and timers; `num_set` counts the timers ever set."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._handles: list[Handle] = []
        self.num_set = 0

    def time(self) -> float:
        return self._now_s

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        self.num_set += 1
        self._handles.append(Handle(when, callback))
        return self._handles[-1]

    def move(self, to_s: float) -> None:
        """Let time go on and the timers due by then run, in order."""
        while due := [h for h in self._handles if h.due_s <= to_s and not h.is_cancelled]:
            first = min(due, key=lambda handle: handle.due_s)
            self._now_s = max(self._now_s, first.due_s)
            self._handles.remove(first)
            first.callback()
        self._now_s = to_s


@pytest.fixture
def loop() -> HandMovedLoop:
    return HandMovedLoop()


@pytest.fixture
def calls() -> list[float]:
    return []


@pytest.fixture
def timer(loop: HandMovedLoop, calls: list[float]) -> PatientTimer:
    return PatientTimer(loop, 5.0, lambda: calls.append(loop.time()))


def test_it_runs_out_once(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """After the delay, and not again."""
    timer.restart()
    loop.move(4.9)
    assert calls == []
    loop.move(100.0)
    assert calls == [5.0]


def test_restarts_put_it_off(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """The whole delay counts from the last restart, and a hundred restarts set few timers."""
    for second in range(100):
        loop.move(float(second))
        timer.restart()
    assert calls == []
    loop.move(200.0)
    assert calls == [104.0]
    assert loop.num_set < 30


def test_stopped_it_does_nothing(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """Until it is restarted; stopping one that does not run is harmless."""
    timer.stop()
    timer.restart()
    loop.move(3.0)
    timer.stop()
    loop.move(50.0)
    assert calls == []
    timer.restart()
    loop.move(60.0)
    assert calls == [55.0]


def test_restarted_after_it_ran_out(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """It runs out again."""
    timer.restart()
    loop.move(10.0)
    timer.restart()
    loop.move(20.0)
    assert calls == [5.0, 15.0]
