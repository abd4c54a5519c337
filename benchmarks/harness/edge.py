"""The edge agent and its gateway as a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from edge_agent.api import Fallback
from edge_agent.settings import ENV_PREFIX, EdgeSettings
from openai_gateway.cli.processes import ServerProcess, free_port

__all__ = ["edge_process"]

_HOST: Final = "127.0.0.1"


def edge_process(settings: EdgeSettings, log_dir: Path, fallback: Fallback = Fallback.ERROR) -> ServerProcess:
    """The edge agent and its gateway on a free loopback port, not started yet; it asks for no key.

    It drafts as `settings` say, without tuning. Keys travel in the environment, which `ps` does not show.
    """
    port = free_port(_HOST)
    arguments = ["edge", "--no-tune", "--host", _HOST, "--port", str(port), "--fallback", fallback]
    arguments += ["--cloud", settings.cloud_url, "--draft", settings.draft]
    arguments += [part for url in settings.replicas for part in ("--replica", url)]
    arguments += ["--mode", settings.mode, "--policy", settings.policy]
    asked_key = f"{ENV_PREFIX}GATEWAY_API_KEY"
    environment = {name: value for name, value in os.environ.items() if name != asked_key}
    if settings.api_key is not None:
        environment[f"{ENV_PREFIX}API_KEY"] = settings.api_key.get_secret_value()
    return ServerProcess(
        [sys.executable, "-m", "openai_gateway.cli.main", *arguments],
        health_url=f"http://{_HOST}:{port}/health",
        log_path=log_dir / f"edge-{port}.log",
        env=environment,
        name="edge agent",
    )
