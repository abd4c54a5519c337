"""Running totals on both sides, read before and after a generation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.processes import session_cpu_s
from benchmarks.testbed.energy import EnergyMeter
from benchmarks.reports.records import Resources
from openai_gateway.cli.errors import CliError

__all__ = ["Meters", "Reading", "engine_totals", "parse_rss_mb", "used"]

_PROC: Final = Path("/proc")
_STEPS: Final = "vllm:iteration_tokens_total_count"
_SESSION_BUSY: Final = "pipesd_step_seconds_sum"
_PLAIN_BUSY: Final = "vllm:request_inference_time_seconds_sum"


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals since the start; None: cannot be known."""

    engine_steps: float
    session_busy_s: float
    plain_busy_s: float
    server_cpu_s: float | None
    edge_cpu_s: float
    energy_j: float | None
    server_rss_mb: float | None
    edge_rss_mb: float | None


class Meters:
    """Reads a server's `/metrics` over HTTP and both sides' /proc; `server_pid` None: it runs elsewhere."""

    def __init__(
        self,
        server_url: str,
        server_pid: int | None,
        energy: EnergyMeter,
        edge_cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        # A fresh connection a reading: a kept one may be closed by the server as the request leaves.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=server_url, trust_env=False, timeout=30.0, limits=limits)
        self._server_pid = server_pid
        self._energy = energy
        self._edge_cpu_s = edge_cpu_s

    async def read(self) -> Reading:
        """Raises `CliError`."""
        try:
            response = await self._client.get("/metrics")
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise CliError(f"The server's /metrics does not answer: {error!r}") from error
        steps, session_busy_s, plain_busy_s = engine_totals(response.text)
        pid = self._server_pid
        return Reading(
            engine_steps=steps,
            session_busy_s=session_busy_s,
            plain_busy_s=plain_busy_s,
            server_cpu_s=None if pid is None else session_cpu_s(pid),
            edge_cpu_s=self._edge_cpu_s(),
            energy_j=self._energy.joules(),
            server_rss_mb=None if pid is None else _session_rss_mb(pid),
            edge_rss_mb=_rss_mb(_PROC / "self"),
        )

    async def close(self) -> None:
        await self._client.aclose()


def engine_totals(text: str) -> tuple[float, float, float]:
    """Engine steps, busy seconds of sessions' passes and of plain requests, from a page of metrics."""
    totals = dict.fromkeys((_STEPS, _SESSION_BUSY, _PLAIN_BUSY), 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    return totals[_STEPS], totals[_SESSION_BUSY], totals[_PLAIN_BUSY]


def used(before: Reading, after: Reading, *, up_bytes: int, down_bytes: int, is_plain: bool) -> Resources:
    """What came in between. The engine is busy while a pass of a session or a plain request is running."""
    busy_s = (
        after.plain_busy_s - before.plain_busy_s if is_plain else after.session_busy_s - before.session_busy_s
    )
    return Resources(
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        engine_busy_s=busy_s,
        server_cpu_s=_difference(before.server_cpu_s, after.server_cpu_s),
        edge_cpu_s=after.edge_cpu_s - before.edge_cpu_s,
        server_rss_mb=after.server_rss_mb,
        edge_rss_mb=after.edge_rss_mb,
        energy_j=_difference(before.energy_j, after.energy_j),
    )


def parse_rss_mb(status: str) -> float | None:
    """Resident memory out of /proc/PID/status, in 10^6 bytes; None for a process that has ended."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _rss_mb(process: Path) -> float | None:
    try:
        return parse_rss_mb((process / "status").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _session_rss_mb(session: int) -> float | None:
    """Sum over the processes of a session; pages that they share count more than once."""
    sizes = []
    for process in _PROC.glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                sizes.append(_rss_mb(process) or 0.0)
        except ProcessLookupError:
            continue
    return sum(sizes) if sizes else None
