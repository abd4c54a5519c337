"""The server's side of a run: a path, the target and the far side at its end."""

from __future__ import annotations

import enum
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.netlink.proxy import ProxyPath, proxy_path
from benchmarks.netlink.relay import EmulatedPath
from benchmarks.netlink.tunnel import TunPath, tun_path, why_not
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.local_target import target_environment, target_flags
from openai_gateway.cli.processes import ServerProcess, free_port
from openai_gateway.cli.serve import server_command

__all__ = ["Link", "Stage", "far_side_process", "opened_path", "raised_stage", "target_process"]

_LOOPBACK: Final = "127.0.0.1"
_PATIENT_SERVER: Final = {
    "PIPESD_SERVER_IDLE_TIMEOUT_S": "86400",  # rivals wait for their turn with a connection open
    "PIPESD_SERVER_SUSPEND_AFTER_S": "60",  # megabytes on the published wire are no absence
}


class Link(enum.StrEnum):
    """How the path is emulated."""

    AUTO = "auto"
    """With TUN devices where that is possible."""
    TUN = "tun"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Stage:
    """A host for server processes; `tun` None: this one, behind a proxy, for the reason `why_proxy`."""

    tun: TunPath | None
    why_proxy: str | None

    @property
    def host(self) -> str:
        return _LOOPBACK if self.tun is None else self.tun.server_host

    @property
    def prefix(self) -> tuple[str, ...]:
        return () if self.tun is None else self.tun.server_prefix


@contextmanager
def raised_stage(link: Link) -> Iterator[Stage]:
    """With TUN this thread lives in the edge's namespace until the end. Raises `CliError`."""
    reason = "asked for" if link is Link.PROXY else why_not()
    if reason is not None:
        if link is Link.TUN:
            raise CliError(f"No link with TUN devices can be made here: {reason}.")
        yield Stage(None, reason)
        return
    with tun_path() as path:
        yield Stage(path, None)


@asynccontextmanager
async def opened_path(stage: Stage) -> AsyncIterator[EmulatedPath]:
    """The path that leads to the stage."""
    if stage.tun is not None:
        yield stage.tun
        return
    async with proxy_path() as path:
        proxied: ProxyPath = path
        yield proxied


def target_process(stage: Stage, model: str, vllm_flags: list[str], log_folder: Path) -> ServerProcess:
    """vLLM with the plugin, not started yet. Raises `CliError`."""
    port = free_port(_LOOPBACK)
    flags = ["--host", stage.host, "--port", str(port), *target_flags(vllm_flags)]
    environment = {
        **_PATIENT_SERVER,
        **target_environment(),
        "VLLM_HOST_IP": _LOOPBACK,  # else it looks for the way out
    }
    return ServerProcess(
        [*stage.prefix, *server_command([model, *flags])],
        health_url=f"http://{stage.host}:{port}/health",
        log_path=log_folder / "target.log",
        env=environment,
        name="target server",
    )


def far_side_process(stage: Stage, server_port: int, log_folder: Path) -> ServerProcess:
    """See `benchmarks/wire/far_side.py`; not started yet."""
    port = free_port(_LOOPBACK)
    arguments = [stage.host, str(port), str(server_port)]
    return ServerProcess(
        [*stage.prefix, sys.executable, "-m", "benchmarks.wire.far_side", *arguments],
        health_url=f"http://{stage.host}:{port}/health",
        log_path=log_folder / "far-side.log",
        name="far side",
    )
