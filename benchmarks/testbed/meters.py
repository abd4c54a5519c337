"""Running totals on both sides, read before and after a generation; energy from hardware counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.clients import Client
from benchmarks.harness.processes import session_cpu_s, session_rss_mb
from benchmarks.reports.records import Resources

__all__ = ["EnergyMeter", "Meters", "Reading", "engine_totals", "find_energy", "used"]

_STEPS: Final = "vllm:iteration_tokens_total_count"
_SESSION_BUSY: Final = "pipesd_step_seconds_sum"
_PLAIN_BUSY: Final = "vllm:request_inference_time_seconds_sum"
_POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """`joules` is a running total, or None: not measured, `description` says why; never estimated."""

    description: str
    joules: Callable[[], float | None] = lambda: None


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
    """Reads a server's metrics and the processes of both sides; `server_pid` None: it runs elsewhere."""

    def __init__(self, server: Client, server_pid: int | None, energy: EnergyMeter) -> None:
        """`server` takes a fresh connection a reading: a kept one may be closed as the request leaves."""
        self._server = server
        self._server_pid = server_pid
        self._energy = energy

    async def read(self) -> Reading:
        """Raises `CliError`."""
        steps, session_busy_s, plain_busy_s = engine_totals(await self._server.metrics())
        pid = self._server_pid
        return Reading(
            engine_steps=steps,
            session_busy_s=session_busy_s,
            plain_busy_s=plain_busy_s,
            server_cpu_s=None if pid is None else session_cpu_s(pid),
            edge_cpu_s=time.process_time(),
            energy_j=self._energy.joules(),
            server_rss_mb=None if pid is None else session_rss_mb(pid),
            edge_rss_mb=psutil.Process().memory_info().rss / 1e6,
        )


def engine_totals(page: str) -> tuple[float, float, float]:
    """Engine steps, busy seconds of sessions' passes and of plain requests, from a page of metrics."""
    totals = dict.fromkeys((_STEPS, _SESSION_BUSY, _PLAIN_BUSY), 0.0)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    return totals[_STEPS], totals[_SESSION_BUSY], totals[_PLAIN_BUSY]


def used(before: Reading, after: Reading, *, up_bytes: int, down_bytes: int, is_plain: bool) -> Resources:
    """What came in between. The engine is busy while a pass of a session or a plain request is running."""
    busy = "plain_busy_s" if is_plain else "session_busy_s"
    return Resources(
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        engine_busy_s=getattr(after, busy) - getattr(before, busy),
        server_cpu_s=_difference(before.server_cpu_s, after.server_cpu_s),
        edge_cpu_s=after.edge_cpu_s - before.edge_cpu_s,
        server_rss_mb=after.server_rss_mb,
        edge_rss_mb=after.edge_rss_mb,
        energy_j=_difference(before.energy_j, after.energy_j),
    )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def find_energy(powercap: Path = _POWERCAP) -> EnergyMeter:
    """NVML's total-energy counters (all GPUs) and RAPL's (all packages), as far as they exist."""
    gpus, no_gpu = _gpu_handles()
    packages = sorted(path for path in powercap.glob("intel-rapl:?") if _readable(path))
    parts = []
    if gpus:
        parts.append(f"NVML total-energy counter of {len(gpus)} GPU(s)")
    if packages:
        parts.append(f"RAPL counter of {len(packages)} CPU package(s)")
    if not parts:
        return EnergyMeter(f"not measured: {no_gpu}, and no readable RAPL counter in {powercap}")
    return EnergyMeter(" and ".join(parts), lambda: _rapl_joules(packages) + _gpu_joules(gpus))


def _rapl_joules(packages: Sequence[Path]) -> float:
    """Sum of the counters. They wrap after some hours at full load; a difference over a run rarely does."""
    return sum(int((path / "energy_uj").read_text()) for path in packages) / 1e6


def _readable(package: Path) -> bool:
    try:
        _rapl_joules([package])
    except (OSError, ValueError):
        return False
    return True


def _gpu_handles() -> tuple[list[Any], str]:
    """Of all GPUs, and why there are none."""
    try:
        import pynvml
    except ImportError:
        return [], "NVML's Python package (nvidia-ml-py) is not installed"
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        _gpu_joules(handles)
    except pynvml.NVMLError as error:
        return [], f"NVML has no energy counter here ({error})"
    return handles, "no GPU"


def _gpu_joules(handles: Sequence[Any]) -> float:
    if not handles:
        return 0.0
    import pynvml

    return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1e3
