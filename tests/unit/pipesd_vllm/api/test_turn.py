"""What a turn tells the engine, and when it gives up waiting for its edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.engine.protocol import StreamingInput

from pipesd_vllm.api.metrics import Overhead
from pipesd_vllm.api.turn import Turn
from pipesd_vllm.scheduling import Command, DecodeAlone, OpenSession, Suspend, unpack_command
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
        completion = SimpleNamespace(token_ids=[7], finish_reason=None, logprobs=None)
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None)
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
    return Turn(engine, "request", opened, ServerSettings(**limits), "salt")  # type: ignore[arg-type]


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
        completion = SimpleNamespace(token_ids=[7], finish_reason="length", logprobs=None)
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None)
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
