"""What the session route makes of a connection's key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.websockets import WebSocket
from vllm.engine.protocol import StreamingInput

from pipesd_vllm.endpoint import session
from pipesd_vllm.metrics import ServerMetrics
from pipesd_vllm.protocol import SUBPROTOCOL, Fingerprint, Limits, Mode, Open, Sampling, Welcome, encode
from pipesd_vllm.settings import ServerSettings

WELCOME = Welcome(1, "target", 100, 1000, Fingerprint(1000, ""), Limits(1 << 20, 256, 16))


class SaltEngine:
    """Ends every turn with one token; `salts` are those that the turns brought."""

    def __init__(self) -> None:
        self.salts: list[str] = []

    async def generate(
        self, inputs: AsyncGenerator[StreamingInput, None], params: object, request_id: str
    ) -> AsyncGenerator[Any, None]:
        opening: Any = await anext(inputs)
        self.salts.append(opening.prompt["cache_salt"])
        completion = SimpleNamespace(token_ids=[7], finish_reason="length", logprobs=None)
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None)


def state_with(engine: SaltEngine, secret: bytes) -> SimpleNamespace:
    """The route's state, without the engine that `PluginState` asks about its model."""
    return SimpleNamespace(
        engine=engine,
        secret=secret,
        welcome=WELCOME,
        settings=ServerSettings(),
        metrics=ServerMetrics(CollectorRegistry()),
        num_connections=0,
    )


async def one_turn(state: SimpleNamespace, key: bytes) -> None:
    """Connect with `key`, run a turn to its end, leave."""
    up: asyncio.Queue[Any] = asyncio.Queue()
    down: asyncio.Queue[Any] = asyncio.Queue()
    opened = Open(1, [1, 2, 3], Sampling(1), Mode.LATENCY)
    up.put_nowait({"type": "websocket.connect"})
    up.put_nowait({"type": "websocket.receive", "bytes": encode(opened)})
    scope = {
        "type": "websocket",
        "headers": [(b"authorization", b"Bearer " + key)],
        "subprotocols": [SUBPROTOCOL],
        "app": SimpleNamespace(state=SimpleNamespace(pipesd=state)),
    }
    serving = asyncio.create_task(session(WebSocket(scope, up.get, down.put)))
    for _ in range(3):  # accepted, greeted, committed
        await asyncio.wait_for(down.get(), 30.0)
    up.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await asyncio.wait_for(serving, 30.0)


async def test_connections_of_one_key_share_the_prefix_cache_and_no_others() -> None:
    """A tenant's next turn finds its blocks on any connection; another tenant's finds none."""
    engine = SaltEngine()
    state = state_with(engine, b"secret")
    for key in (b"one", b"two", b"one"):
        await one_turn(state, key)
    first, other, again = engine.salts
    assert first == again != other


async def test_a_full_server_says_when_to_come_back() -> None:
    """One connection more than there may be is refused with 429 and a `Retry-After` of whole seconds."""
    state = state_with(SaltEngine(), b"secret")
    state.num_connections = state.settings.max_sessions
    down: asyncio.Queue[Any] = asyncio.Queue()
    scope = {
        "type": "websocket",
        "headers": [],
        "subprotocols": [SUBPROTOCOL],
        "extensions": {"websocket.http.response": {}},
        "app": SimpleNamespace(state=SimpleNamespace(pipesd=state)),
    }
    await session(WebSocket(scope, asyncio.Queue().get, down.put))
    refusal = await down.get()
    assert refusal["status"] == 429
    assert int(dict(refusal["headers"])[b"retry-after"]) > 0
    assert state.num_connections == state.settings.max_sessions
