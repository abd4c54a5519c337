"""Runs `pipesd bench overhead` on a server that answers, and prints where the time goes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from benchmarks.harness.processes import session_cpu_s
from benchmarks.idle_cost import describe_idle, measure_idle
from benchmarks.speed.overhead import Overhead, describe_overhead, measure_overhead
from benchmarks.plain_rounds import HttpPlainApi
from benchmarks.report import machine, write_json
from benchmarks.harness.server import RunningServer
from edge_agent.agent_parts import cloud_connector
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.console import live_status

__all__ = ["overhead_run"]

_TIMEOUT_S = 60.0


async def overhead_run(
    server: RunningServer, num_rounds: int, num_repeats: int, json_file: Path | None
) -> None:
    """Raises `CliError`, `EdgeError`."""
    settings = server.settings
    connector = cloud_connector(settings)

    def cpu_s() -> float | None:
        return session_cpu_s(server.process.pid) if server.process is not None else None

    with live_status() as show:
        async with HttpPlainApi(_http_client(settings)) as plain:
            cost = await measure_overhead(connector, plain, num_rounds, num_repeats, show)
        idle = await measure_idle(connector, cpu_s, show) if cpu_s() is not None else None
    out = Console(highlight=False, soft_wrap=True)
    for line in [*describe_overhead(cost), describe_idle(idle)]:
        out.print(line)
    if json_file is not None:
        report = {**_figures(cost), "idle": None if idle is None else _rounded(asdict(idle))}
        write_json(json_file, {**report, "machine": machine()})


def _http_client(settings: EdgeSettings) -> httpx.AsyncClient:
    key = settings.cloud_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # No proxy: what is measured is the server, and the sessions do not go through one either.
    return httpx.AsyncClient(
        base_url=settings.cloud_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
    )


def _figures(cost: Overhead) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "repeats": cost.num_repeats,
        "verify_round": asdict(cost.verify),
        "session_stream": asdict(cost.stream),
        "plain_stream": {"token_ms": cost.plain_token_ms, "added_ms": cost.plain_token_added_ms},
        "plain_reply": {"wall_ms": cost.plain_reply_ms, "added_ms": cost.plain_reply_added_ms},
        "own_code": None if cost.own is None else {**asdict(cost.own), "total_ms": cost.own.total_ms},
    }
    return _rounded(figures)


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds to the microsecond."""
    return {name: _rounded_value(value) for name, value in figures.items()}


def _rounded_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _rounded(value)
    return round(value, 3) if isinstance(value, float) else value
