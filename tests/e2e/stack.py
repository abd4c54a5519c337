"""The stack on this side of the verifier: agent settings, a gateway on a real port, a network that fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI

from edge_agent.agent import EdgeAgent
from edge_agent.api import Generator
from edge_agent.settings import EdgeSettings
from openai_gateway.app import create_app
from openai_gateway.cli.hosting import KEEP_ALIVE_S
from tests.conftest import Verifier


def edge_settings(cloud_url: str, api_key: str, **settings: Any) -> EdgeSettings:
    """An agent's settings, whatever file of settings and results of tuning this machine has."""
    file = Path(__file__).with_name("no-such-settings.toml")
    return EdgeSettings(
        cloud_url=cloud_url, api_key=api_key, config_file=file, **({"tune": False} | settings)
    )


@asynccontextmanager
async def started_agent(cloud_url: str, api_key: str, **settings: Any) -> AsyncIterator[EdgeAgent]:
    """An agent with `edge_settings`, closed in the end."""
    agent = await EdgeAgent.start(edge_settings(cloud_url, api_key, **settings))
    try:
        yield agent
    finally:
        await agent.close()


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """`app` under uvicorn on a free loopback port; gives scheme, host and port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_keep_alive=KEEP_ALIVE_S)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def gateway_client(generator: Generator) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, without retries, of a gateway on `generator`."""
    async with (
        serving(create_app(generator)) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@asynccontextmanager
async def agent_of(
    verifier: Verifier, cloud_url: str | None = None, **settings: Any
) -> AsyncIterator[EdgeAgent]:
    """An agent of `verifier` with the draft that goes with it, reached by `cloud_url` if given."""
    fitting = {"draft": verifier.draft} | settings
    async with started_agent(cloud_url or verifier.base_url, verifier.api_key, **fitting) as agent:
        yield agent


@asynccontextmanager
async def stack_behind(relay: Relay, verifier: Verifier, **settings: Any) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client of a gateway whose agent reaches the verifier only through `relay`."""
    async with (
        agent_of(verifier, relay.url, **settings) as agent,
        gateway_client(agent) as client,
    ):
        yield client


def server_client(verifier: Verifier) -> AsyncOpenAI:
    """OpenAI's client of the vLLM server's own API: what every answer is compared with."""
    return AsyncOpenAI(base_url=f"{verifier.base_url}/v1", api_key=verifier.api_key, max_retries=0)


class Relay:
    """Forwards a loopback port to `target_port`, and can break off all that goes through it."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._restoring: asyncio.Task[None] | None = None
        self.num_connections = 0
        self.num_bytes = 0
        """Forwarded so far, both ways."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def restore(self) -> None:
        """Listen, on the same port as before. Idempotent."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def restore_after(self, delay_s: float) -> None:
        """`restore` after `delay_s`; returns at once."""

        async def later() -> None:
            await asyncio.sleep(delay_s)
            await self.restore()

        self._restoring = asyncio.create_task(later())

    async def cut(self) -> None:
        """Break off every connection and take no new ones."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", self._target_port)
                await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
        finally:
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(OSError):
                while data := await reader.read(1 << 16):
                    self.num_bytes += len(data)
                    writer.write(data)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def relay_to(verifier: Verifier) -> AsyncIterator[Relay]:
    """A relay in front of the verifier, forwarding."""
    relay = Relay(int(verifier.base_url.rpartition(":")[2]))
    await relay.restore()
    try:
        yield relay
    finally:
        await relay.cut()
