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
from benchmarks.netlink.tunnel import TunPath, tun_path, why_not
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.local_target import target_environment, target_flags
from openai_gateway.cli.processes import ServerProcess, free_port
from openai_gateway.cli.serve import server_command

__all__ = ["Link", "Stage", "raised_stage"]

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

    @asynccontextmanager
    async def path(self) -> AsyncIterator[TunPath | ProxyPath]:
        """The path that leads to the stage."""
        if self.tun is not None:
            yield self.tun
            return
        async with proxy_path() as path:
            yield path

    def target(self, model: str, vllm_flags: list[str], logs: Path) -> ServerProcess:
        """vLLM with the plugin, not started yet. Raises `CliError`."""
        host, port = self._place()
        environment = {
            **_PATIENT_SERVER,
            **target_environment(),
            "VLLM_HOST_IP": _LOOPBACK,  # else it looks for the way out
        }
        flags = ["--host", host, "--port", str(port), *target_flags(vllm_flags)]
        return self._process("target server", host, port, server_command([model, *flags]), logs, environment)

    def far_side(self, server_port: int, logs: Path) -> ServerProcess:
        """See `benchmarks/wire/far_side.py`; not started yet."""
        host, port = self._place()
        command = [sys.executable, "-m", "benchmarks.wire.far_side", host, str(port), str(server_port)]
        return self._process("far side", host, port, command, logs, None)

    def _place(self) -> tuple[str, int]:
        return _LOOPBACK if self.tun is None else self.tun.server_host, free_port(_LOOPBACK)

    def _process(
        self, name: str, host: str, port: int, command: list[str], logs: Path, env: dict[str, str] | None
    ) -> ServerProcess:
        return ServerProcess(
            [*(() if self.tun is None else self.tun.server_prefix), *command],
            health_url=f"http://{host}:{port}/health",
            log_path=logs / f"{name.replace(' ', '-')}.log",
            env=env,
            name=name,
        )


@contextmanager
def raised_stage(link: Link) -> Iterator[Stage]:
    """With TUN this thread lives in the edge's namespace until the end. Raises `CliError`."""
    reason = "asked for" if link is Link.PROXY else why_not()
    if reason is None:
        with tun_path() as path:
            yield Stage(path, None)
    elif link is Link.TUN:
        raise CliError(f"No link with TUN devices can be made here: {reason}.")
    else:
        yield Stage(None, reason)
