"""The command that starts the process to be measured."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.gateway_process import edge_process
from edge_agent.settings import EdgeSettings


def test_command(tmp_path: Path) -> None:
    """It leads to the server that is measured, and no key is on the command line."""
    (empty := tmp_path / "config.toml").touch()
    settings = EdgeSettings(cloud_url="http://gpu:8000", api_key="sk-secret", config_file=empty)
    process = edge_process(settings, tmp_path)
    assert process.command[:4] == (sys.executable, "-m", "openai_gateway.cli.main", "edge")
    assert "http://gpu:8000" in process.command
    assert "--no-tune" in process.command
    assert not any("sk-secret" in argument for argument in process.command)
    assert process.health_url == f"{process.base_url}/health"
