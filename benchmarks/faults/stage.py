"""The processes that faults befall: servers of one target behind a path that can fail, gateways in front."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.faults.answers import CHAT_PATH, Ask, Expected, reference
from benchmarks.harness.edge import edge_process
from benchmarks.harness.options import Flags
from benchmarks.netlink.proxy import ProxyPath, proxy_path
from edge_agent.api import Fallback
from edge_agent.drafting import check_model
from edge_agent.settings import EdgeSettings, load_settings
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.local_target import local_target
from openai_gateway.cli.processes import ServerProcess
from openai_gateway.cli.serve import DEFAULT_MODEL

__all__ = ["ATTACKERS_KEY", "Process", "Stage", "open_stage", "running_servers"]

ATTACKERS_KEY: Final = "sk-faults-attacker"
_KEY: Final = "sk-faults-owner"
_READY_S: Final = 600.0
_IDLE_S: Final = 60.0
_TIMEOUT_S: Final = 600.0
_FLAGS: Final = (
    *("--dtype", "float32", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--api-key", _KEY, ATTACKERS_KEY),
    "--structured-outputs-config",  # a target that means nothing writes blanks between JSON's fields for ever
    '{"backend": "xgrammar", "disable_any_whitespace": true}',
)
_BUSY: Final = frozenset(
    (
        "pipesd_open_turns",
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
    )
)


@dataclass(frozen=True, slots=True)
class Process:
    """One that can die, stand still and come back. `start` must be called in the main thread."""

    process: ServerProcess

    def start(self) -> None:
        self.process.__enter__()

    def kill(self) -> None:
        """As the kernel would when memory is short: all of it at once, without a word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stop()

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    async def drain(self) -> None:
        """SIGTERM, and wait until it has gone; SIGKILL after the grace time that `pipesd up` gives."""
        await asyncio.to_thread(self.process.stop)

    async def ready(self) -> None:
        """Raises `CliError`."""
        await asyncio.to_thread(self.process.wait_ready, _READY_S)

    @property
    def port(self) -> int:
        return int(self.process.base_url.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Stage:
    """Servers, the path that gateways reach them by, and a gateway for each setting of `--fallback`."""

    servers: Sequence[Process]
    path: ProxyPath
    gateways: Mapping[Fallback, Process]
    clients: Mapping[Fallback, httpx.AsyncClient]
    model: str

    async def expected(self, asks: Iterable[Ask]) -> dict[str, Expected]:
        """What the first server's own API answers. Raises `CliError`."""
        found = {}
        async with _asking() as client:
            for ask in asks:
                body = msgspec.json.encode({"model": self.model, **ask.body})
                url = self.servers[0].process.base_url + CHAT_PATH
                answer = await client.post(url, content=body)
                if answer.is_error:
                    raise CliError(f"The target refuses {ask.name!r}: {answer.text[:300]}")
                found[ask.name] = reference(answer.json())
        return found

    async def until_idle(self) -> list[str]:
        """What the servers still hold a minute after all answers: metrics that are not 0 again."""
        deadline_s = time.monotonic() + _IDLE_S
        async with _asking() as client:
            while True:
                held = [
                    f"{number}: {name}"
                    for number in range(len(self.servers))
                    for name in await self._held(client, number)
                ]
                if not held or time.monotonic() > deadline_s:
                    return held
                await asyncio.sleep(0.1)

    async def _held(self, client: httpx.AsyncClient, number: int) -> list[str]:
        page = (await client.get(self.servers[number].process.base_url + "/metrics")).text
        return [
            f"{sample.name} {sample.value:g}"
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name in _BUSY and sample.value
        ]


@contextmanager
def running_servers(
    flags: Flags, num_servers: int, log_dir: Path
) -> Iterator[tuple[list[Process], EdgeSettings]]:
    """Servers of one target on this machine, and settings of an agent of theirs. Raises `CliError`."""
    if flags.given.get("cloud") is not None:
        raise CliError("Faults befall servers that are started here: leave --cloud out.", exit_code=2)
    settings = load_settings(
        {**flags.edge, "tune": False, "cloud_url": "http://127.0.0.1:9", "api_key": _KEY}
    )
    check_model(settings.draft)
    servers: list[Process] = []
    try:
        for _ in range(num_servers):
            target = flags.given.get("target") or DEFAULT_MODEL
            servers.append(Process(local_target(target, (*_FLAGS, *flags.vllm), log_dir=log_dir)))
            servers[-1].start()
        for server in servers:
            server.process.wait_ready(_READY_S)
        yield servers, settings
    finally:
        for server in servers:
            server.process.stop()


@asynccontextmanager
async def open_stage(
    servers: Sequence[Process], settings: EdgeSettings, fallbacks: Iterable[Fallback], log_dir: Path
) -> AsyncIterator[Stage]:
    """Gateways on `servers`, the first of which is `--cloud`. Raises `CliError`."""
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(proxy_path())
        urls = [f"http://{await path.reach(server.port)}" for server in servers]
        led = settings.model_copy(update={"cloud_url": urls[0], "replicas": tuple(urls[1:])})
        gateways = {each: Process(edge_process(led, log_dir, each)) for each in fallbacks}
        clients = {}
        for gateway in gateways.values():
            gateway.start()
            stack.callback(gateway.process.stop)
        for each, gateway in gateways.items():
            await gateway.ready()
            clients[each] = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=gateway.process.base_url,
                    headers={"content-type": "application/json"},
                    limits=httpx.Limits(max_keepalive_connections=0),
                    timeout=_TIMEOUT_S,
                    trust_env=False,
                )
            )
        yield Stage(servers, path, gateways, clients, await _model(servers[0]))


def _asking() -> httpx.AsyncClient:
    """A client of the servers themselves."""
    headers = {"Authorization": f"Bearer {_KEY}", "Content-Type": "application/json"}
    return httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S, trust_env=False)


async def _model(server: Process) -> str:
    async with _asking() as client:
        served: dict[str, Any] = (await client.get(f"{server.process.base_url}/v1/models")).json()
    return str(served["data"][0]["id"])
