"""The server to benchmark: started on this machine, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from edge_agent.models import check_model
from edge_agent.settings import EdgeSettings, load_settings
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.local_target import local_target
from openai_gateway.cli.processes import ServerProcess
from openai_gateway.cli.up import wait_with_status

__all__ = ["RunningServer", "ServerChoice", "running_server"]

_UNTUNED: Final = {"tune": False}
"""A run must not depend on what earlier ones taught the agent; `bench tune` brings its own tuner."""


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """Which server: the one at `cloud_url`, or `target` served here with more `vllm_flags`."""

    cloud_url: str | None = None
    target: str | None = None
    dtype: str | None = None
    vllm_flags: tuple[str, ...] = ()

    def flags(self) -> list[str]:
        """Flags of vLLM for a server that is started here."""
        return [*(("--dtype", self.dtype) if self.dtype else ()), *self.vllm_flags]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers. `settings` lead an edge agent to it; `process` is None if it is not ours."""

    settings: EdgeSettings
    process: ServerProcess | None


@contextmanager
def running_server(choice: ServerChoice, edge_flags: Mapping[str, Any]) -> Iterator[RunningServer]:
    """Start the server, showing how it goes, and stop it at the end; or use the one that runs.

    `edge_flags` are settings of the edge agent (None: not given).
    Raises `CliError`, `ConfigError`, `ModelError`.
    """
    if choice.cloud_url is not None:
        _check_foreign(choice)
        yield RunningServer(load_settings({**_UNTUNED, **edge_flags, "cloud_url": choice.cloud_url}), None)
        return
    process = _process(choice.target, choice.flags())
    settings = load_settings({**_UNTUNED, **edge_flags, "cloud_url": process.base_url})
    check_model(settings.draft)  # before the wait for the server
    with process:
        wait_with_status(process)
        try:
            yield RunningServer(settings, process)
        except Exception:
            process.check_running("in the middle of the benchmark")  # the cause, if it is gone
            raise


def _process(target: str | None, flags: Sequence[str]) -> ServerProcess:
    return local_target(extra=flags) if target is None else local_target(target, flags)


def _check_foreign(choice: ServerChoice) -> None:
    # --dtype is allowed: it says what that server runs with.
    if choice.target is not None or choice.vllm_flags:
        raise CliError(
            "--target and flags for vLLM are for a server that is started here: leave them out with --cloud.",
            exit_code=2,
        )
