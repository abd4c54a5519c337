"""One edge connection on the server, without an engine: how it ends, whoever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.websockets import WebSocket
from vllm.exceptions import GenerationError, RetryableRequestError
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_vllm.api import ServerMetrics
from pipesd_vllm.api.service import SessionConnection
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    Commit,
    Downstream,
    Draft,
    Fingerprint,
    Limits,
    Mode,
    RefusalCode,
    Refused,
    Upstream,
    Welcome,
    decode_downstream,
    encode,
)

from .session_client import opening

pytestmark = pytest.mark.filterwarnings("ignore")

WELCOME = Welcome(1, "target", 100, 1000, Fingerprint(1000, ""), Limits(1 << 20, 256, 16))
PROMPT = [1, 2, 3]
DEADLINE_S = 30.0

Inputs = AsyncGenerator[Any, None]
Script = Callable[[Inputs], AsyncGenerator[Any, None]]


def output(*tokens: int, finish_reason: str | None = None) -> Any:
    """What vLLM yields, as far as a turn reads it."""
    completion = SimpleNamespace(
        token_ids=tokens, finish_reason=finish_reason, stop_reason=None, logprobs=None
    )
    return SimpleNamespace(outputs=[completion], kv_transfer_params=None, num_cached_tokens=0)


class ScriptedEngine:
    """Plays `script` for every request; `running` counts those that have not ended."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.running = 0

    async def generate(self, inputs: Inputs, params: object, request_id: str) -> AsyncGenerator[Any, None]:
        self.running += 1
        try:
            async for out in self._script(inputs):
                yield out
        finally:
            self.running -= 1


class Peer:
    """The far end of an ASGI WebSocket."""

    def __init__(self) -> None:
        self._up: asyncio.Queue[Any] = asyncio.Queue()
        self._down: asyncio.Queue[Any] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self._up.put_nowait({"type": "websocket.connect"})
        self.socket = WebSocket({"type": "websocket", "headers": []}, self._up.get, self._take)

    async def _take(self, event: Any) -> None:
        if event["type"] == "websocket.send":
            await self.reads.wait()
        self._down.put_nowait(event)

    def send(self, *messages: Upstream) -> None:
        for message in messages:
            self._up.put_nowait({"type": "websocket.receive", "bytes": encode(message)})

    def leave(self) -> None:
        self._up.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def next(self) -> Any:
        return await asyncio.wait_for(self._down.get(), DEADLINE_S)

    async def frame(self) -> Downstream:
        event = await self.next()
        assert event["type"] == "websocket.send", event
        return decode_downstream(event["bytes"])

    async def closed(self) -> tuple[int, str]:
        """Code and the reason's first word of the close that comes next."""
        event = await self.next()
        assert event["type"] == "websocket.close", event
        return event["code"], event["reason"].partition(":")[0]


@asynccontextmanager
async def connection(engine: ScriptedEngine, **settings: float) -> AsyncIterator[Peer]:
    """A greeted peer; when it is done with, nothing of it runs on."""
    peer = Peer()
    await peer.socket.accept()
    metrics = ServerMetrics(CollectorRegistry())
    limits = ServerSettings(**settings)  # type: ignore[arg-type]
    service = SessionConnection(peer.socket, engine, WELCOME, limits, metrics, "salt")  # type: ignore[arg-type]
    serving = asyncio.create_task(service.serve())
    assert (await peer.next())["type"] == "websocket.accept"
    assert await peer.frame() == WELCOME
    yield peer
    peer.leave()
    await asyncio.wait_for(serving, DEADLINE_S)
    assert engine.running == 0


async def one_token(inputs: Inputs) -> AsyncGenerator[Any, None]:
    yield output(7, finish_reason="length")


async def one_token_and_wait(inputs: Inputs) -> AsyncGenerator[Any, None]:
    yield output(7)
    await asyncio.Event().wait()


async def test_silence_is_closed() -> None:
    """A connection that never opens a turn is closed after the idle time."""
    async with connection(ScriptedEngine(one_token), idle_timeout_s=0.05) as peer:
        assert await peer.closed() == (1000, "idle")


async def test_silence_after_a_turn_is_closed() -> None:
    """So is one whose turn has ended."""
    async with connection(ScriptedEngine(one_token), idle_timeout_s=0.5) as peer:
        peer.send(opening(PROMPT, 1))
        assert isinstance(await peer.frame(), Commit)
        assert await peer.closed() == (1000, "idle")


async def test_a_turn_is_not_idle() -> None:
    """While a turn runs the edge may be silent for longer."""
    engine = ScriptedEngine(one_token_and_wait)
    async with connection(engine, idle_timeout_s=0.5) as peer:
        peer.send(opening(PROMPT, 9))
        await peer.frame()
        await asyncio.sleep(1.5)
        assert engine.running == 1


async def test_drafts_that_nobody_takes() -> None:
    """More frames than a turn holds wait for it, and no longer: its end lets the next turn through."""

    async def deaf(inputs: Inputs) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(0.1)  # meanwhile the frames fill the turn's queue
        yield output(7, finish_reason="length")

    async with connection(ScriptedEngine(deaf)) as peer:
        peer.send(opening(PROMPT, 1, turn=1), *[Draft(1, 1, 3, 0, [7])] * 1000, opening(PROMPT, 1, turn=2))
        frames = [await peer.frame(), await peer.frame()]
    assert [(frame.turn, frame.tokens) for frame in frames if isinstance(frame, Commit)] == [
        (1, [7]),
        (2, [7]),
    ]


async def test_a_slow_reader_is_dropped() -> None:
    """An edge that does not take its frames is closed, and its request ends."""

    async def endless(inputs: Inputs) -> AsyncGenerator[Any, None]:
        while True:
            await asyncio.sleep(0)  # as vLLM's outputs, which come out of the event loop
            yield output(7)

    async with connection(ScriptedEngine(endless), send_timeout_s=0.5) as peer:
        peer.send(opening(PROMPT, 99))
        await peer.frame()
        peer.reads.clear()
        while (event := await peer.next())["type"] == "websocket.send":
            pass
    assert (event["code"], event["reason"].partition(":")[0]) == (1008, "slow_reader")


async def test_an_abandoned_turn_is_refused() -> None:
    """An offloaded turn without drafts ends with a code, and the connection stays."""
    engine = ScriptedEngine(one_token_and_wait)
    async with connection(engine, abandon_after_s=0.5) as peer:
        for turn in (1, 2):
            peer.send(opening(PROMPT, 9, turn=turn, mode=Mode.OFFLOAD))
            assert isinstance(await peer.frame(), Commit)
            refused = await peer.frame()
            assert isinstance(refused, Refused)
            assert (refused.turn, refused.code) == (turn, RefusalCode.ABANDONED)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no"), RefusalCode.BAD_SAMPLING),
        (RuntimeError("no"), RefusalCode.ENGINE_ERROR),
        (GenerationError("no"), RefusalCode.ENGINE_ERROR),  # what 0.33 raises where 0.32 has an output
        (RetryableRequestError("no"), RefusalCode.OVERLOADED),
        (OSError("no"), RefusalCode.ENGINE_ERROR),
    ],
    ids=repr,
)
async def test_an_engine_error_ends_the_turn_only(error: Exception, code: RefusalCode) -> None:
    """Whatever vLLM raises for one request is told, and the next turn may be opened.

    With a `ValueError`, as with its own class, vLLM says that it does not take the parameters.
    """

    async def failing(inputs: Inputs) -> AsyncGenerator[Any, None]:
        raise error
        yield

    async with connection(ScriptedEngine(failing)) as peer:
        for turn in (1, 2):
            peer.send(opening(PROMPT, 9, turn=turn))
            assert await peer.frame() == Refused(turn, code, "no")


async def test_an_output_of_an_error_ends_the_turn_only() -> None:
    """A request that the engine gives up is refused, and the next turn may be opened."""

    async def giving_up(inputs: Inputs) -> AsyncGenerator[Any, None]:
        yield output(finish_reason="error")

    async with connection(ScriptedEngine(giving_up)) as peer:
        for turn in (1, 2):
            peer.send(opening(PROMPT, 9, turn=turn))
            refused = await peer.frame()
            assert isinstance(refused, Refused)
            assert (refused.turn, refused.code) == (turn, RefusalCode.ENGINE_ERROR)


async def test_a_dead_engine_closes_the_connection() -> None:
    """Nothing can be served any more: 1011, so that the edge looks for another server."""

    async def dead(inputs: Inputs) -> AsyncGenerator[Any, None]:
        raise EngineDeadError
        yield

    async with connection(ScriptedEngine(dead)) as peer:
        peer.send(opening(PROMPT, 9))
        assert await peer.closed() == (1011, "engine_dead")


async def test_a_stopping_engine_closes_the_connection() -> None:
    """A turn that vLLM aborts has no last commit: 1012, so that the edge takes it up elsewhere."""

    async def stopping(inputs: Inputs) -> AsyncGenerator[Any, None]:
        yield output(7)
        yield output(finish_reason="abort")

    async with connection(ScriptedEngine(stopping)) as peer:
        peer.send(opening(PROMPT, 9))
        assert isinstance(await peer.frame(), Commit)
        assert await peer.closed() == (1012, "engine_stopping")
