"""The server that `pipesd up` and the benchmarks start on this machine, with its flags in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from openai_gateway.cli.processes import ServerProcess, free_port
from openai_gateway.cli.serve import DEFAULT_MODEL, server_command

__all__ = ["local_target", "target_environment", "target_flags"]

HOST: Final = "127.0.0.1"

_FLAGS: Final = {
    "--max-model-len": "2048",
    "--max-num-seqs": "8",
}
"""Sized for two cores that are shared with the draft model; dtype stays vLLM's choice (bfloat16)."""

_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
}


def target_flags(extra: Sequence[str] = ()) -> list[str]:
    """vLLM flags for a server on this machine; flags in `extra` replace the defaults."""
    given = {argument.partition("=")[0] for argument in extra}
    ours = [part for flag, value in _FLAGS.items() if flag not in given for part in (flag, value)]
    return [*ours, *extra]


def target_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ` with the variables that a server on this machine needs."""
    return {**_ENVIRONMENT, **environ}


def local_target(
    model: str = DEFAULT_MODEL,
    extra: Sequence[str] = (),
    *,
    port: int | None = None,
    log_dir: Path | None = None,
) -> ServerProcess:
    """A server for `model` on loopback, not started yet. Its base URL: `http://127.0.0.1:<port>`.

    `extra` are more vLLM flags, `port` is a free one unless given, `log_dir` the user's log folder.
    Raises `CliError` if vLLM is not installed.
    """
    port = free_port(HOST) if port is None else port
    base_url = f"http://{HOST}:{port}"
    return ServerProcess(
        server_command([model, "--host", HOST, "--port", str(port), *target_flags(extra)]),
        health_url=f"{base_url}/health",
        log_path=(log_dir or _user_log_dir()) / f"target-{port}.log",
        env=target_environment(),
        name="target server",
    )


def _user_log_dir() -> Path:
    import platformdirs

    return platformdirs.user_log_path("pipesd")
