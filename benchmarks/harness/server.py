"""The server to benchmark: started on this machine, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.harness.options import Flags
from benchmarks.harness.processes import session_cpu_s
from edge_agent.drafting import check_model
from edge_agent.settings import EdgeSettings, load_settings
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.local_target import local_target, target_environment
from openai_gateway.cli.processes import ServerProcess, free_port
from openai_gateway.cli.serve import DEFAULT_MODEL
from openai_gateway.cli.up import wait_with_status

__all__ = ["RunningServer", "plain_api", "running_server", "running_stock", "stock_server"]

_UNTUNED: Final = {"tune": False}
"""A run must not depend on what earlier ones taught the agent."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers. `settings` lead an edge agent to it; `process` is None if it is not ours."""

    settings: EdgeSettings
    process: ServerProcess | None
    dtype: str | None = None

    def cpu_s(self) -> float | None:
        """CPU seconds of all its processes so far; None if they are not ours to measure."""
        return None if self.process is None else session_cpu_s(self.process.pid)


@contextmanager
def plain_api(server: RunningServer, *, stock: bool) -> Iterator[tuple[str, str | None]]:
    """Address and key of the API that says what is right: the server's own, or that of one without pipesd.

    Raises `CliError`.
    """
    if not stock:
        yield server.settings.cloud_url, server.settings.cloud_key
        return
    if server.process is None:
        raise CliError("--stock starts both servers here: leave out --cloud.", exit_code=2)
    with running_stock(server.process) as other:
        yield other.base_url, None


@contextmanager
def running_stock(process: ServerProcess) -> Iterator[ServerProcess]:
    """Stock vLLM beside a server of ours that runs, and stopped at the end. Raises `CliError`."""
    with stock_server(process) as stock:
        wait_with_status(stock)
        yield stock


def stock_server(process: ServerProcess) -> ServerProcess:
    """Stock vLLM on another port, with the flags of a server of ours; not started yet."""
    port = str(free_port("127.0.0.1"))
    url = process.base_url.rpartition(":")[0] + f":{port}"
    module = {"pipesd_vllm.launch.serve": "benchmarks.harness.stock_server"}
    command = [module.get(part, part) for part in process.command]
    command[command.index("--port") + 1] = port
    return ServerProcess(
        command,
        health_url=f"{url}/health",
        log_path=process.log_path.with_name(f"stock-{port}.log"),
        env=target_environment(),
        name="stock vLLM",
    )


@contextmanager
def running_server(flags: Flags, more_vllm: Sequence[str] = ()) -> Iterator[RunningServer]:
    """Start the server, showing how it goes, and stop it at the end; or use the one that runs.

    `more_vllm` are flags for a server that is started here. Raises `CliError`, `ConfigError`, `ModelError`.
    """
    given = flags.given
    cloud, target, dtype = (given.get(name) for name in ("cloud", "target", "dtype"))
    edge = {**_UNTUNED, **flags.edge}
    if cloud is not None:
        if target is not None or flags.vllm:  # --dtype is allowed: it says what that server runs with
            raise CliError(
                "--target and flags for vLLM are for a server that is started here: leave them out with "
                "--cloud.",
                exit_code=2,
            )
        yield RunningServer(load_settings({**edge, "cloud_url": cloud}), None, dtype)
        return
    vllm = (*(("--dtype", dtype) if dtype else ()), *more_vllm, *flags.vllm)
    process = local_target(target or DEFAULT_MODEL, vllm)
    settings = load_settings({**edge, "cloud_url": process.base_url})
    check_model(settings.draft)  # before the wait for the server
    with process:
        wait_with_status(process)
        try:
            yield RunningServer(settings, process, dtype)
        except Exception:
            process.check_running("in the middle of the benchmark")  # the cause, if it is gone
            raise
