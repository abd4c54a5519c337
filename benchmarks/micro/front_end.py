"""What a session costs the API server's event loop beyond stock streaming, and what goes down the line.

vLLM's own app, the plugin's routes and `AsyncLLM` run as they are, on virtual time, over a simulated engine,
and the app is called without a network. CPU is the whole process': what differs between kinds is theirs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.sim.front import SimServer, front_end
from benchmarks.sim.log import EventLog
from benchmarks.sim.loop import VirtualLoop
from benchmarks.sim.network import SimNetwork
from benchmarks.sim.plan import ServerPlan, StepCost
from benchmarks.sim.world import prepare
from pipesd_vllm.wire import SESSION_PATH, SUBPROTOCOL, Ask, Commit, Mode, Text, decode_downstream, encode

__all__ = ["FrontEndCost", "front_end_costs"]

Event = MutableMapping[str, Any]
Send = Callable[[Event], Awaitable[None]]

_PATH: Final = "/v1/chat/completions"
_SCOPE: Final = {
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "root_path": "",
    "query_string": b"",
    "client": ("edge", 0),
    "server": ("server", 80),
}


@dataclass(frozen=True, slots=True)
class FrontEndCost:
    """Of `num_streams` answers at once, a token."""

    num_streams: int
    kind: str
    cpu_us: float
    bytes_down: float
    """Payload, without TCP and frame headers."""
    deflated: float | None
    """The same if each answer were compressed as a whole; None for a session, whose text is compressed."""


def front_end_costs(numbers: tuple[int, ...], num_tokens: int) -> Iterator[FrontEndCost]:
    """Stock streaming and sessions whose edges send no drafts, of `num_tokens` an answer."""
    prepare()
    front_end(0)
    for num_streams in numbers:
        for kind in ("stock", "session"):
            _measured(kind, num_streams, 8)  # caches fill
            yield _measured(kind, num_streams, num_tokens)


def _measured(kind: str, num_streams: int, num_tokens: int) -> FrontEndCost:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_run(loop, kind, num_streams, num_tokens))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


async def _run(loop: VirtualLoop, kind: str, num_streams: int, num_tokens: int) -> FrontEndCost:
    log, ids = EventLog(loop.time), itertools.count()
    plan = ServerPlan(
        step=StepCost(base_s=0.015), num_blocks=16 * num_streams + 64, max_num_seqs=max(16, num_streams)
    )
    network = SimNetwork(loop, log)
    loop.network = network
    server = SimServer(0, plan, network, log, lambda: f"{next(ids):08x}")
    stream = _stock if kind == "stock" else _session
    began_s = time.process_time()
    sent = await asyncio.gather(*(stream(server.app, number, num_tokens) for number in range(num_streams)))
    cpu_s = time.process_time() - began_s
    server.stop()
    total = num_streams * num_tokens
    deflated = sum(len(zlib.compress(data)) for data in sent) / total if kind == "stock" else None
    return FrontEndCost(num_streams, kind, cpu_s * 1e6 / total, sum(map(len, sent)) / total, deflated)


def _body(number: int, num_tokens: int) -> bytes:
    return json.dumps(
        {
            "messages": [{"role": "user", "content": f"Number {number}"}],
            "stream": True,
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "seed": number,
        }
    ).encode()


async def _stock(app: Callable[..., Any], number: int, num_tokens: int) -> bytes:
    """The body of vLLM's own stream."""
    given = [_body(number, num_tokens)]
    parts: list[bytes] = []

    async def receive() -> Event:
        if given:
            return {"type": "http.request", "body": given.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: Event) -> None:
        if event.get("status", 200) != 200:
            raise RuntimeError(f"the server answered HTTP {event['status']}")
        parts.append(event.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"host", b"server")]
    scope = {"type": "http", "method": "POST", "scheme": "http", "path": _PATH, "raw_path": _PATH.encode()}
    await app(_SCOPE | scope | {"headers": headers, "state": {}}, receive, send)
    return b"".join(parts)


async def _session(app: Callable[..., Any], number: int, num_tokens: int) -> bytes:
    """All frames of an answer by `Ask`."""
    ask = Ask(1, _PATH, _body(number, num_tokens), f"r{number}", Mode.LATENCY, 0)
    given: asyncio.Queue[Event] = asyncio.Queue()
    given.put_nowait({"type": "websocket.connect"})
    frames: list[bytes] = []
    num_committed = 0

    async def send(event: Event) -> None:
        nonlocal num_committed
        if event["type"] == "websocket.accept":
            given.put_nowait({"type": "websocket.receive", "bytes": encode(ask)})
        elif event["type"] == "websocket.send":
            frames.append(event["bytes"])
            frame = decode_downstream(event["bytes"])
            if isinstance(frame, Commit):
                num_committed += len(frame.tokens)
            if isinstance(frame, Text) and frame.last:
                given.put_nowait({"type": "websocket.disconnect", "code": 1000})
        elif event["type"] == "websocket.close":
            raise RuntimeError(f"the server closed the session: {event.get('reason')}")

    scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": SESSION_PATH,
        "raw_path": SESSION_PATH.encode(),
        "subprotocols": [SUBPROTOCOL],
    }
    await app(_SCOPE | scope | {"headers": [(b"host", b"server")], "state": {}}, given.get, send)
    if num_committed != num_tokens:
        raise RuntimeError(f"{num_committed} tokens were committed, {num_tokens} asked for")
    return b"".join(frames[1:])
