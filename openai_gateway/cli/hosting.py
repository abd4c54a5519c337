"""Runs the edge agent and its gateway until a signal, and closes both in order."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.markup import escape
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from edge_agent import EdgeSettings
from edge_agent.api import Generator, TargetInfo
from edge_agent.errors import ConfigError, EdgeError
from openai_gateway.app import create_app
from openai_gateway.cli.console import stderr
from openai_gateway.cli.processes import bind_listener, bind_unix
from openai_gateway.cli.running import announced
from openai_gateway.http import DEFAULT_LABEL, ApiKeys, read_keys
from openai_gateway.http.access import LOOPBACK_ONLY, AccessPolicy, access_policy, risks
from openai_gateway.observe.metrics import GatewayMetrics
from openai_gateway.observe.request_log import RequestLog, json_logging
from openai_gateway.observe.requests import RequestObserver
from openai_gateway.observe.telemetry import Telemetry, start_telemetry
from openai_gateway.routing import ModelNames
from openai_gateway.target import Forwarder, LateGenerator

__all__ = ["KEEP_ALIVE_S", "bind_gateway", "hosted_gateway", "run_gateway"]

HEADERS_TIMEOUT_S = 30.0
"""How long a connection may be open without having sent a request's headers."""
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
    if settings.unix_socket is not None:
        listener = bind_unix(settings.unix_socket)
    else:
        listener = bind_listener(settings.listen_host, settings.listen_port)
    try:
        access_policy(settings, _address(listener))
        ModelNames.parse(settings.aliases)
        gateway_keys(settings)
        _check_certificate(settings)
    except ConfigError:
        listener.close()
        raise
    return listener


def gateway_keys(settings: EdgeSettings) -> ApiKeys:
    """The keys that clients need. Raises `ConfigError` for a file of them that cannot be read."""
    file = settings.gateway_api_keys_file
    labels = {} if file is None else read_keys(file)
    if settings.gateway_api_key:
        labels[settings.gateway_api_key.get_secret_value()] = DEFAULT_LABEL
    return ApiKeys(labels, settings.max_requests_per_key)


def _check_certificate(settings: EdgeSettings) -> None:
    """Raise `ConfigError` unless certificate and key can be served with."""
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise ConfigError("tls_key needs tls_cert: name the certificate, too.")
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls_cert: {settings.tls_cert} cannot be served with: {error}.") from error


def _address(listener: socket.socket) -> str:
    """The IP address it listens on; loopback for a Unix socket."""
    name = listener.getsockname()
    return str(name[0]) if isinstance(name, tuple) else "127.0.0.1"


def run_gateway(
    settings: EdgeSettings,
    listener: socket.socket,
    start_agent: StartAgent,
    stop_when: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until `stop_when()` is true (then return) or a signal comes (then exit with 128 + its number).

    Raises `EdgeError` if the agent cannot start or never reached its server.
    """
    _start_logging(settings.log_level.upper(), as_json=settings.log_format == "json")
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


def _start_logging(level: str, *, as_json: bool = False) -> None:
    """Log from `level` on; libraries that log headers (keys) and whole messages from WARNING on at least."""
    handlers = [json_logging()] if as_json else None
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
        force=as_json,
    )
    quiet = max(logging.WARNING, logging.getLevelNamesMapping()[level])
    for name in _TELLTALES:
        logging.getLogger(name).setLevel(quiet)


async def _run(
    settings: EdgeSettings, listener: socket.socket, start_agent: StartAgent, stop_when: Callable[[], bool]
) -> int | None:
    async with AsyncExitStack() as started:
        telemetry = start_telemetry(settings.otel_endpoint)
        if telemetry is not None:
            started.push_async_callback(telemetry.close)
        others = {}
        with stderr.status("Starting the edge agent"):
            for url in settings.other_targets:
                others[url] = LateGenerator(url, partial(_start_beside, settings, url, start_agent))
                started.push_async_callback(others[url].close)
            agent = await start_agent(settings)
            started.push_async_callback(agent.close)
            for other in others.values():
                await other.tried()
        target = await agent.target()
        served = [await _served(url, each) for url, each in {settings.cloud_url: agent, **others}.items()]
        access = access_policy(settings, _address(listener))
        keys = gateway_keys(settings)
        config = uvicorn.Config(
            monitored_app(settings, agent, keys, telemetry, access=access, others=others),
            http=with_header_timeout(HEADERS_TIMEOUT_S),
            access_log=False,
            log_level=settings.log_level,
            log_config=None if settings.log_format == "json" else uvicorn.config.LOGGING_CONFIG,
            limit_concurrency=settings.max_connections + 1,  # from which on uvicorn refuses
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=math.ceil(settings.drain_s),
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = _Server(config, lambda: _announce(settings, listener, target, served))
        url = _url(settings, listener)
        with announced("gateway", url, target.model):
            return await _serve(server, listener, stop_when)


async def _start_beside(settings: EdgeSettings, url: str, start_agent: StartAgent) -> Generator:
    from edge_agent.agent import for_another_target

    return await start_agent(await for_another_target(settings, url))


async def _served(url: str, generator: Generator) -> str:
    """What is announced of a target."""
    try:
        return f"{(await generator.target(offline=True)).model} at {url}"
    except EdgeError:
        return f"at {url}: out of reach, tried again and again"


def monitored_app(
    settings: EdgeSettings,
    agent: Generator,
    keys: ApiKeys,
    telemetry: Telemetry | None = None,
    *,
    access: AccessPolicy = LOOPBACK_ONLY,
    others: Mapping[str, Generator] | None = None,
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
    traced: Callable[[Generator], Generator] = (lambda each: each) if telemetry is None else telemetry.traced
    app = create_app(
        traced(agent),
        keys=keys,
        access=access,
        names=ModelNames.parse(settings.aliases, any_model=settings.any_model),
        others={url: traced(each) for url, each in (others or {}).items()},
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


def _announce(
    settings: EdgeSettings, listener: socket.socket, target: TargetInfo, served: Sequence[str]
) -> None:
    url = f"{_url(settings, listener)}/v1"
    draft = settings.draft if target.has_draft else _NO_DRAFT
    key = "YOUR_KEY" if gateway_keys(settings) else "unused"
    lines = [
        f"[bold]PipeSD listens on {url}[/bold] (Ctrl-C stops it)",
        *(f"  target  {escape(each)}" for each in served),
        f"  draft   {escape(draft)}",
        f'  Python  [cyan]openai.OpenAI(base_url="{url}", api_key="{key}")[/cyan]',
        f"  shell   [cyan]pipesd chat --url {url}[/cyan]",
        *(f"  [bold]risk[/bold]    {escape(risk)}" for risk in risks(settings)),
    ]
    stderr.print("\n".join(lines), soft_wrap=True)


def _url(settings: EdgeSettings, listener: socket.socket) -> str:
    """Where clients find the gateway, without a path."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix://{name}"
    return f"{'https' if settings.tls_cert else 'http'}://{_visible_address(name)}"


def with_header_timeout(limit_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, closing connections whose request's headers are not there within `limit_s`.

    Counted from the connection's start, and from the first byte of each later request: how long a connection
    may be idle between two is uvicorn's `timeout_keep_alive`.
    """

    class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect()

        def data_received(self, data: bytes) -> None:
            self._expect()
            super().data_received(data)
            if not self._is_awaiting():
                self._came()

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            super().connection_lost(exc)

        def _is_awaiting(self) -> bool:
            return self.cycle is None or bool(self.cycle.response_complete)

        def _expect(self) -> None:
            if self._deadline is None and self._is_awaiting():
                self._deadline = self.loop.call_later(limit_s, self.transport.close)

        def _came(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Impatient


def _visible_address(address: tuple[Any, ...]) -> str:
    """`host:port` to put into a URL; an address that means "all" becomes loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], str(address[0]))
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
