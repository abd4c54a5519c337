"""The plugin's own routes on real sockets, before an engine that follows a script."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from vllm.engine.protocol import StreamingInput

from openai_gateway.cli.processes import free_port
from pipesd_vllm.api import ServerMetrics
from pipesd_vllm.api.endpoint import PluginState, router
from pipesd_vllm.scheduling import OpenSession, unpack_command
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import Fingerprint, Limits, Welcome
from tests.servers import QuietServer

__all__ = ["NUM_TOKENS", "PROMPT", "TEXT", "ScriptedEngine", "Server", "connectable"]

WELCOME = Welcome(2, "target", 1000, 1000, Fingerprint(1000, ""), Limits(1 << 20, 256, 0))
PROMPT = (5, 17, 42)
NUM_TOKENS = 40


def token_at(position: int) -> int:
    return 100 + position * 7 % 800


TEXT = [token_at(len(PROMPT) + number) for number in range(NUM_TOKENS)]


def _output(tokens: list[int], finish_reason: str | None) -> Any:
    completion = SimpleNamespace(
        token_ids=tokens, finish_reason=finish_reason, stop_reason=None, logprobs=None
    )
    return SimpleNamespace(outputs=[completion], kv_transfer_params=None, num_cached_tokens=0)


class ScriptedEngine:
    """A token each 5 ms, by its position: after what an edge brings along it goes on.

    With `flood` it gives that many tokens at once, over and over.
    """

    def __init__(self, flood: int = 0) -> None:
        self.turns = 0
        self.running = 0
        self._flood = flood

    async def generate(
        self, inputs: AsyncGenerator[StreamingInput, None], params: object, request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.turns += 1
        self.running += 1
        try:
            async for output in self._outputs(inputs):
                yield output
        finally:
            self.running -= 1

    async def _outputs(self, inputs: AsyncGenerator[StreamingInput, None]) -> AsyncGenerator[Any, None]:
        opening: Any = await anext(inputs)
        last = len(PROMPT) + NUM_TOKENS - 1
        command = unpack_command(opening.sampling_params.extra_args)
        assert isinstance(command, OpenSession)
        position = len(PROMPT) + len(command.committed)
        while self._flood:
            yield _output([1] * self._flood, None)
            await asyncio.sleep(0)
        while True:
            await asyncio.sleep(0.005)
            ended = position == last
            yield _output([token_at(position)], "length" if ended else None)
            if ended:
                return
            position += 1


class Server:
    """One verifier on a port of its own; it can be killed and started again."""

    def __init__(
        self,
        engine: ScriptedEngine | None = None,
        settings: ServerSettings | None = None,
        **uvicorn_options: Any,
    ) -> None:
        self.port = free_port("127.0.0.1")
        self.engine = engine or ScriptedEngine()
        self.registry = CollectorRegistry()
        self.state = PluginState(
            self.engine,
            Namespace(api_key=None),
            settings or ServerSettings(),
            ServerMetrics(self.registry),
            WELCOME,
            b"secret",
        )
        self._options = uvicorn_options
        self._server: QuietServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        app = FastAPI()
        app.include_router(router)
        app.state.pipesd = self.state
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off", **self._options
        )
        self._server = QuietServer(config)
        self._serving = asyncio.create_task(self._server.serve())
        await connectable(self.port)

    async def kill(self) -> None:
        """Drop all connections, and answer no more."""
        assert self._server is not None
        assert self._serving is not None
        self._server.force_exit = self._server.should_exit = True
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        await self._serving

    @property
    def is_up(self) -> bool:
        return self._serving is not None and not self._serving.done()


async def connectable(port: int) -> None:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise AssertionError(f"nobody listens on port {port}")
