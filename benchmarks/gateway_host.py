"""The real gateway under uvicorn, in the running event loop or in one of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from socket import socket
from typing import Any, Final

import uvicorn

from edge_agent.generation import Generator
from openai_gateway.app import create_app
from openai_gateway.cli.hosting import KEEP_ALIVE_S
from openai_gateway.cli.ports import bind_listener

__all__ = ["gateway_in_a_thread", "hosted_gateway"]

_HOST: Final = "127.0.0.1"
_GRACE_S: Final = 1
"""How long streams that are still open may go on after the end."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: Ctrl-C cancels the task that benchmarks."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def hosted_gateway(generator: Generator) -> AsyncIterator[str]:
    """Serve `generator` on a free loopback port; gives the OpenAI base URL, which needs no key.

    The generator stays open. Raises `CliError` if there is no port to listen on.
    """
    with bind_listener(_HOST, 0) as listener:
        config = uvicorn.Config(
            create_app(generator),
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.ready.wait()
            yield f"http://{_HOST}:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def gateway_in_a_thread(generator: Generator) -> AsyncIterator[str]:
    """As `hosted_gateway`, but in a thread of its own, so that its CPU time can be told apart."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    url: asyncio.Future[str] = loop.create_future()

    async def serve() -> None:
        async with hosted_gateway(generator) as base_url:
            loop.call_soon_threadsafe(url.set_result, base_url)
            await asyncio.to_thread(left.wait)

    serving = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    try:
        first: set[asyncio.Future[Any]] = {url, serving}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving  # raises what kept it from starting
        yield await url
    finally:
        left.set()
        await serving
