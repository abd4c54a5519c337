"""vLLM's front end with the plugin's routes on a real port, its engine scripted, and raw lines to it."""

from __future__ import annotations

import asyncio
import socket
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import uvicorn
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pipesd_vllm.api import ServerMetrics
from pipesd_vllm.api.endpoint import PluginState, router
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    SESSION_PATH,
    SUBPROTOCOL,
    Downstream,
    Upstream,
    Welcome,
    decode_downstream,
    encode_in_parts,
)
from tests.answers import Answer
from tests.servers import QuietServer
from tests.unit.pipesd_vllm.api.front_end import KEY, FrontEnd

__all__ = ["OTHER_KEY", "Line", "Served", "listening", "served"]

OTHER_KEY = "sk-another-tenant"
DEADLINE_S = 60.0


class Served:
    """A server that is attacked."""

    def __init__(self, front: FrontEnd, state: PluginState, port: int) -> None:
        self.front = front
        self.state = state
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def closed(self, reason: str) -> float:
        """How many connections the server has ended for `reason`."""
        return float(self.state.metrics.closed.labels(reason)._value.get())

    def is_idle(self) -> bool:
        """Whether nothing of any session is left."""
        return not self.front.engine.num_running and len(self.state.connections) == 0

    def dial(self, key: str = KEY, **options: Any) -> connect:
        """A connection attempt, as an edge makes it unless `options` say otherwise."""
        settings: dict[str, Any] = {
            "additional_headers": {"Authorization": f"Bearer {key}"},
            "subprotocols": [Subprotocol(SUBPROTOCOL)],
            "compression": None,
            "proxy": None,
            "max_queue": None,
            "max_size": None,
        }
        return connect(f"ws://127.0.0.1:{self.port}{SESSION_PATH}", **(settings | options))

    @asynccontextmanager
    async def line(self, key: str = KEY, **options: Any) -> AsyncIterator[Line]:
        """A connection whose greeting has been read."""
        async with self.dial(key, **options) as socket_:
            line = Line(socket_)
            assert isinstance(await line.frame(), Welcome)
            yield line

    async def raw(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TCP connection that has said `data`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer

    def narrow(self) -> socket.socket:
        """A connected socket that holds little which nobody reads."""
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 13)
        made.connect(("127.0.0.1", self.port))
        made.setblocking(False)
        return made

    async def get(self, path: str, **headers: str) -> int:
        """The status of a plain request."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return (await client.get(path, headers=headers)).status_code


class Line:
    """One WebSocket, frame by frame."""

    def __init__(self, socket_: ClientConnection) -> None:
        self.socket = socket_

    async def send(self, *messages: Upstream) -> None:
        for message in messages:
            for data in encode_in_parts(message):
                await self.socket.send(data)

    async def frame(self) -> Downstream:
        data = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        assert isinstance(data, bytes)
        return decode_downstream(data)

    async def answer(self) -> Answer:
        """All that comes for an `Ask`."""
        answer = Answer()
        while not answer.is_whole:
            answer.add(await self.frame())
        return answer

    async def closed(self) -> tuple[int | None, str]:
        """Read on until the server closes; its code and the reason's first word."""
        with suppress(ConnectionClosed):
            while True:
                await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        return self.socket.close_code, (self.socket.close_reason or "").partition(":")[0]


@asynccontextmanager
async def listening(app: Any, **options: Any) -> AsyncIterator[int]:
    """`app` under uvicorn on a free loopback port, whose sockets hold little that nobody reads."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=30, **options)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def served(front: FrontEnd, **settings: Any) -> AsyncIterator[Served]:
    """`front` on a port, with two keys' shares of its seats; in the end nothing of any session is left."""
    if not getattr(front.app.state, "has_sessions", False):
        front.app.include_router(router)
        front.app.state.has_sessions = True
    front.app.state.pipesd = state = PluginState(
        front.engine,
        Namespace(api_key=[KEY, OTHER_KEY]),
        ServerSettings(**settings),
        ServerMetrics(CollectorRegistry()),
        front.welcome,
        b"secret",
    )
    async with listening(front.app) as port:
        serving = Served(front, state, port)
        yield serving
        async with asyncio.timeout(DEADLINE_S):
            while not serving.is_idle():  # noqa: ASYNC110 - a socket's end is not announced
                await asyncio.sleep(0.01)
