"""What the session route makes of a connection's key."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.websockets import WebSocket
from uvicorn.protocols.utils import ClientDisconnected
from vllm.engine.protocol import StreamingInput

from pipesd_vllm.api import ServerMetrics
from pipesd_vllm.api.admission import OpenContexts, Tenant
from pipesd_vllm.api.endpoint import PipeSDEndpoint, PluginState, num_api_keys, session
from pipesd_vllm.api.tenant import OpenConnections
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    SERVED_SUBPROTOCOLS,
    SUBPROTOCOL,
    Cancel,
    Commit,
    Fingerprint,
    Limits,
    Mode,
    Open,
    RefusalCode,
    Refused,
    Sampling,
    Welcome,
    decode_downstream,
    encode,
)

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
        completion = SimpleNamespace(token_ids=[7], finish_reason="length", stop_reason=None, logprobs=None)
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None, num_cached_tokens=0)


def state_with(engine: SaltEngine, secret: bytes, most: int = 9, most_per_key: int = 9) -> PluginState:
    """The route's state for at most `most` connections, `most_per_key` of them with one key."""
    metrics = ServerMetrics(CollectorRegistry())
    arguments = Namespace(api_key=None)
    state = PluginState(engine, arguments, ServerSettings(), metrics, WELCOME, secret)  # type: ignore[arg-type]
    state.connections = OpenConnections(most, most_per_key)
    return state


class Edge:
    """One connection with `key`, spoken to as an ASGI server does."""

    def __init__(self, state: PluginState, key: bytes, subprotocol: str = SUBPROTOCOL) -> None:
        self._up: asyncio.Queue[Any] = asyncio.Queue()
        self._down: asyncio.Queue[Any] = asyncio.Queue()
        self.send({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "headers": [(b"authorization", b"Bearer " + key)],
            "subprotocols": [subprotocol],
            "app": SimpleNamespace(state=SimpleNamespace(pipesd=state)),
            "extensions": {"websocket.http.response": {}},
        }
        self._serving = asyncio.create_task(session(WebSocket(scope, self._up.get, self._down.put)))

    def send(self, event: dict[str, Any]) -> None:
        self._up.put_nowait(event)

    async def receive(self) -> Any:
        return await asyncio.wait_for(self._down.get(), 30.0)

    async def leave(self) -> None:
        self.send({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self._serving, 30.0)


async def test_workers_that_verify_nothing_are_refused() -> None:
    """vLLM's own worker accepts drafts by another rule: its texts would not be those of plain requests."""

    class StockWorkers:
        vllm_config = SimpleNamespace(speculative_config=object())

        async def collective_rpc(self, method: str) -> None:
            raise AttributeError(f"'Worker' object has no attribute {method!r}")

    with pytest.raises(RuntimeError, match="leave --worker-cls out"):
        await PipeSDEndpoint().init_state(StockWorkers(), SimpleNamespace(), Namespace())  # type: ignore[arg-type]


async def one_turn(state: PluginState, key: bytes) -> None:
    """Connect with `key`, run a turn to its end, leave."""
    edge = Edge(state, key)
    edge.send({"type": "websocket.receive", "bytes": encode(Open(1, [1, 2, 3], Sampling(1), Mode.LATENCY))})
    for _ in range(3):  # accepted, greeted, committed
        await edge.receive()
    await edge.leave()


async def refused(state: PluginState, key: bytes) -> str:
    """Connect with `key`, be refused as one too many; returns what the server said."""
    edge = Edge(state, key)
    start, body = await edge.receive(), await edge.receive()
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"5"
    error = json.loads(body["body"])["error"]
    assert error["type"] == "overloaded"
    await edge.leave()
    return str(error["message"])


async def test_connections_of_one_key_share_the_prefix_cache_and_no_others() -> None:
    """A tenant's next turn finds its blocks on any connection; another tenant's finds none."""
    engine = SaltEngine()
    state = state_with(engine, b"secret")
    for key in (b"one", b"two", b"one"):
        await one_turn(state, key)
    first, other, again = engine.salts
    assert first == again != other


@pytest.mark.parametrize(("subprotocol", "version"), SERVED_SUBPROTOCOLS.items())
async def test_an_edge_is_greeted_in_its_version(subprotocol: str, version: int) -> None:
    """An edge of version 1 looks for that version in the greeting."""
    edge = Edge(state_with(SaltEngine(), b"secret"), b"key", subprotocol)
    assert (await edge.receive())["subprotocol"] == subprotocol
    welcome = decode_downstream((await edge.receive())["bytes"])
    assert isinstance(welcome, Welcome)
    assert welcome.version == version
    await edge.leave()


async def test_one_key_cannot_take_all_connections() -> None:
    """Beyond its share it gets a typed 429 with a time to wait; other keys, and itself later, get in."""
    state = state_with(SaltEngine(), b"secret", most=4, most_per_key=2)
    greedy = [Edge(state, b"greedy") for _ in range(2)]
    for edge in greedy:
        assert (await edge.receive())["type"] == "websocket.accept"
    assert "with this API key" in await refused(state, b"greedy")
    other = Edge(state, b"other")
    assert (await other.receive())["type"] == "websocket.accept"
    await greedy.pop().leave()
    again = Edge(state, b"greedy")
    assert (await again.receive())["type"] == "websocket.accept"
    for edge in (*greedy, other, again):
        await edge.leave()
    assert state.connections.refusal("anybody") is None


async def test_a_full_server_refuses_everybody() -> None:
    """Whatever the key; the message does not blame it."""
    state = state_with(SaltEngine(), b"secret", most=1, most_per_key=1)
    edge = Edge(state, b"first")
    assert (await edge.receive())["type"] == "websocket.accept"
    assert "API key" not in await refused(state, b"second")
    await edge.leave()


@pytest.mark.parametrize(
    ("flag", "variable", "most"),
    [(None, None, 0), (None, "one", 1), (["a", "b"], "c", 2), (["a", "a", ""], None, 1)],
)
def test_keys_are_counted_as_vllm_takes_them(flag: list[str] | None, variable: str | None, most: int) -> None:
    """The flag comes before the variable; empty and repeated keys do not count."""
    environment = {} if variable is None else {"VLLM_API_KEY": variable}
    assert num_api_keys(Namespace(api_key=flag), environment) == most


@pytest.mark.parametrize(
    ("most", "subprotocol"),
    [(9, SUBPROTOCOL), (9, "pipesd.v0"), (0, SUBPROTOCOL)],
    ids=["served", "old", "full"],
)
@pytest.mark.parametrize("num_sent", [0, 1])
async def test_a_client_that_leaves_while_the_upgrade_is_answered(
    most: int, subprotocol: str, num_sent: int
) -> None:
    """The ASGI server says so by an error of its own, which is none of ours; its place is free again."""
    state = state_with(SaltEngine(), b"s" * 32, most)
    events: list[Any] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006}]
    sent: list[Any] = []

    async def receive() -> Any:
        return events.pop(0) if len(events) > 1 else events[0]

    async def send(event: Any) -> None:
        if len(sent) >= num_sent:
            raise ClientDisconnected
        sent.append(event)

    scope = {
        "type": "websocket",
        "headers": [],
        "subprotocols": [subprotocol],
        "app": SimpleNamespace(state=SimpleNamespace(pipesd=state)),
        "extensions": {"websocket.http.response": {}},
    }
    await asyncio.wait_for(session(WebSocket(scope, receive, send)), 30.0)
    assert len(state.connections) == 0


async def refused_turn(state: PluginState, key: bytes, num_tokens: int) -> Refused:
    """Connect with `key` and ask for a turn that there is no room for."""
    edge = Edge(state, key)
    prompt = [1] * num_tokens
    edge.send({"type": "websocket.receive", "bytes": encode(Open(1, prompt, Sampling(1), Mode.LATENCY))})
    for _ in range(2):  # accepted, greeted
        await edge.receive()
    answer = decode_downstream((await edge.receive())["bytes"])
    assert isinstance(answer, Refused)
    await edge.leave()
    return answer


async def test_a_turn_that_the_kv_cache_has_no_room_for_is_refused() -> None:
    """By name, with a time to wait, and counted; when the others have ended there is room."""
    state = state_with(SaltEngine(), b"secret")
    state.contexts = OpenContexts(50, 50)
    taken = Tenant("somebody", state.contexts).hold(49)
    answer = await refused_turn(state, b"key", 3)
    assert (answer.code, answer.retry_after_s) == (RefusalCode.OVERLOADED, 5.0)
    assert state.metrics.refused_turns.labels("kv_full")._value.get() == 1
    taken.suspend()
    await one_turn(state, b"key")
    assert state.contexts.num_tokens == 0


async def test_one_key_begins_so_many_turns_a_second() -> None:
    """Two bursts of one key are refused from some turn on; another key's first turn is not."""
    engine = SaltEngine()
    state = state_with(engine, b"secret")
    state.settings = ServerSettings(max_turns_s=1.0)
    for _ in range(3):
        await one_turn(state, b"greedy")
    answer = await refused_turn(state, b"greedy", 3)
    assert answer.code is RefusalCode.OVERLOADED
    assert 0.0 < (answer.retry_after_s or 0.0) <= 1.0
    await one_turn(state, b"other")


async def test_who_floods_the_server_is_read_no_faster() -> None:
    """Frames beyond the rate make the connection wait, and none is lost."""
    state = state_with(SaltEngine(), b"secret")
    edge = Edge(state, b"key")
    for _ in range(1100):
        edge.send({"type": "websocket.receive", "bytes": encode(Cancel(9))})
    edge.send({"type": "websocket.receive", "bytes": encode(Open(1, [1, 2, 3], Sampling(1), Mode.LATENCY))})
    for _ in range(2):
        await edge.receive()
    assert isinstance(decode_downstream((await edge.receive())["bytes"]), Commit)
    assert state.metrics.throttled._value.get() > 0
    await edge.leave()
