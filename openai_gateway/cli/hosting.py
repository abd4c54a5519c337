"""Runs the edge agent and its gateway until a signal, and closes both in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.markup import escape

from edge_agent import EdgeSettings
from edge_agent.api import Generator, TargetInfo
from edge_agent.errors import ConfigError
from openai_gateway.app import create_app
from openai_gateway.cli.console import stderr
from openai_gateway.cli.processes import bind_listener
from openai_gateway.cli.running import announced
from openai_gateway.http.access import LOOPBACK_ONLY, AccessPolicy, access_policy, risks
from openai_gateway.observe.metrics import GatewayMetrics
from openai_gateway.observe.request_log import RequestLog
from openai_gateway.observe.requests import RequestObserver
from openai_gateway.observe.telemetry import Telemetry, start_telemetry
from openai_gateway.routing import ModelNames
from openai_gateway.target import Forwarder

__all__ = ["KEEP_ALIVE_S", "bind_gateway", "hosted_gateway", "run_gateway"]

_GRACE_S = 3
"""How long streams that are still open may go on after the signal to stop."""
KEEP_ALIVE_S = 120
"""How long a connection may be idle: longer than clients keep theirs (Go's 90 s), so that none is closed
just as its next request leaves. uvicorn's own 5 s cost 4 of 1000 requests of 200 clients a `ReadError`."""
_WATCH_INTERVAL_S = 0.5
_NO_DRAFT = "no model, only lookup: `pip install 'pipesd[edge]'` brings llama.cpp, --draft names one"
_TELLTALES = ("httpcore", "httpx", "openai", "sse_starlette", "websockets")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

StartAgent = Callable[[EdgeSettings], Awaitable[Generator]]


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: it would skip our clean-up."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def bind_gateway(settings: EdgeSettings) -> socket.socket:
    """The gateway's listening socket, so that a busy port is found before anything is started.

    Raises `ConfigError` if it is not safe to serve there (`access_policy`).
    """
    listener = bind_listener(settings.listen_host, settings.listen_port)
    try:
        access_policy(settings, listener.getsockname()[0])
        ModelNames.parse(settings.aliases)
    except ConfigError:
        listener.close()
        raise
    return listener


def run_gateway(
    settings: EdgeSettings,
    listener: socket.socket,
    start_agent: StartAgent,
    stop_when: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until `stop_when()` is true (then return) or a signal comes (then exit with 128 + its number).

    Raises `EdgeError` if the agent cannot start or never reached its server.
    """
    _start_logging(settings.log_level.upper())
    number = asyncio.run(_run(settings, listener, start_agent, stop_when))
    if number is not None:
        sys.exit(128 + number)


@asynccontextmanager
async def hosted_gateway(generator: Generator) -> AsyncIterator[str]:
    """Serve `generator`, which stays open, on a free loopback port of the running event loop.

    Gives the OpenAI base URL, which needs no key. Raises `CliError` if there is no port to listen on.
    """
    with bind_listener("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            create_app(generator),
            lifespan="off",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        ready = asyncio.Event()
        server = _Server(config, ready.set)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await ready.wait()
            yield f"http://{_visible_address(listener.getsockname())}/v1"
        finally:
            server.should_exit = True
            await serving


def _start_logging(level: str) -> None:
    """Log from `level` on; libraries that log headers (keys) and whole messages from WARNING on at least."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    quiet = max(logging.WARNING, logging.getLevelNamesMapping()[level])
    for name in _TELLTALES:
        logging.getLogger(name).setLevel(quiet)


async def _run(
    settings: EdgeSettings, listener: socket.socket, start_agent: StartAgent, stop_when: Callable[[], bool]
) -> int | None:
    telemetry = start_telemetry(settings.otel_endpoint)
    with stderr.status("Starting the edge agent"):
        agent = await start_agent(settings)
    try:
        target = await agent.target()
        key = settings.gateway_api_key.get_secret_value() if settings.gateway_api_key else None
        config = uvicorn.Config(
            monitored_app(
                settings, agent, key, telemetry, access=access_policy(settings, listener.getsockname()[0])
            ),
            access_log=False,
            log_level=settings.log_level,
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = _Server(config, lambda: _announce(settings, listener, target))
        url = f"http://{_visible_address(listener.getsockname())}"
        with announced("gateway", url, target.model):
            return await _serve(server, listener, stop_when)
    finally:
        await agent.close()
        if telemetry is not None:
            await telemetry.close()


def monitored_app(
    settings: EdgeSettings,
    agent: Generator,
    api_key: str | None,
    telemetry: Telemetry | None = None,
    *,
    access: AccessPolicy = LOOPBACK_ONLY,
) -> FastAPI:
    """The gateway's application with what watches it: metrics, and logs and traces if they are wanted."""
    from edge_agent import EdgeAgent  # what the draft needs is loaded when an agent starts

    metrics = GatewayMetrics()
    if isinstance(agent, EdgeAgent):
        metrics.watch_link(lambda: agent.link_snapshot().rtt_s)
    observers: list[RequestObserver] = []
    if settings.log_format != "none":
        observers.append(RequestLog(settings.log_format))
    if telemetry is not None:
        observers.append(telemetry.observer())
    app = create_app(
        agent if telemetry is None else telemetry.traced(agent),
        api_key=api_key,
        access=access,
        names=ModelNames.parse(settings.aliases, any_model=settings.any_model),
        embeddings=_embeddings(settings),
        metrics=metrics,
        observers=observers,
    )
    if telemetry is not None:
        telemetry.instrument(app)
    return app


def _embeddings(settings: EdgeSettings) -> Forwarder | None:
    """The other server of embeddings, if the settings name one."""
    from edge_agent.agent import cloud_api

    if settings.embeddings_url is None:
        return None
    other = {"cloud_url": settings.embeddings_url, "api_key": settings.embeddings_api_key, "replicas": ()}
    return cloud_api(settings.model_copy(update=other))


async def _serve(server: _Server, listener: socket.socket, stop_when: Callable[[], bool]) -> int | None:
    """Serve until told to stop; the number of the signal that said so, if one did."""
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        server.force_exit = len(received) > 1  # the second Ctrl-C does not wait for open streams
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    watcher = asyncio.create_task(_watch(server, stop_when))
    try:
        await server.serve(sockets=[listener])
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return received[0] if received else None


async def _watch(server: uvicorn.Server, stop_when: Callable[[], bool]) -> None:
    while not stop_when():  # noqa: ASYNC110 - a child process gives no event to wait for
        await asyncio.sleep(_WATCH_INTERVAL_S)
    server.should_exit = True


def _announce(settings: EdgeSettings, listener: socket.socket, target: TargetInfo) -> None:
    url = f"http://{_visible_address(listener.getsockname())}/v1"
    draft = settings.draft if target.has_draft else _NO_DRAFT
    key = "YOUR_KEY" if settings.gateway_api_key else "unused"
    lines = [
        f"[bold]PipeSD listens on {url}[/bold] (Ctrl-C stops it)",
        f"  target  {escape(target.model)} at {settings.cloud_url}",
        f"  draft   {escape(draft)}",
        f'  Python  [cyan]openai.OpenAI(base_url="{url}", api_key="{key}")[/cyan]',
        f"  shell   [cyan]pipesd chat --url {url}[/cyan]",
        *(f"  [bold]risk[/bold]    {escape(risk)}" for risk in risks(settings)),
    ]
    stderr.print("\n".join(lines), soft_wrap=True)


def _visible_address(address: tuple[Any, ...]) -> str:
    """`host:port` to put into a URL; an address that means "all" becomes loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], str(address[0]))
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
