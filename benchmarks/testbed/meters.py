"""Running totals on both sides, read before and after a generation."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.clients import Client
from benchmarks.harness.processes import session_cpu_s, session_rss_mb

__all__ = ["Meters", "Reading", "used"]

_STEPS: Final = "vllm:iteration_tokens_total_count"
_SESSION_BUSY: Final = "pipesd_step_seconds_sum"
_PLAIN_BUSY: Final = "vllm:request_inference_time_seconds_sum"


class Reading(NamedTuple):
    """Totals since the start; None: the process is gone."""

    engine_steps: float
    session_busy_s: float
    plain_busy_s: float
    server_cpu_s: float | None
    server_rss_mb: float | None
    edge_cpu_s: float
    edge_rss_mb: float


class Meters:
    """Reads a server's metrics and the processes of both sides."""

    def __init__(self, server: Client, server_pid: int) -> None:
        """`server` takes a fresh connection a reading: a kept one may be closed as the request leaves."""
        self._server = server
        self._server_pid = server_pid

    async def read(self) -> Reading:
        """Raises `CliError`."""
        totals = dict.fromkeys((_STEPS, _SESSION_BUSY, _PLAIN_BUSY), 0.0)
        for family in text_string_to_metric_families(await self._server.metrics()):
            for sample in family.samples:
                if sample.name in totals:
                    totals[sample.name] += sample.value
        return Reading(
            engine_steps=totals[_STEPS],
            session_busy_s=totals[_SESSION_BUSY],
            plain_busy_s=totals[_PLAIN_BUSY],
            server_cpu_s=session_cpu_s(self._server_pid),
            server_rss_mb=session_rss_mb(self._server_pid),
            edge_cpu_s=time.process_time(),
            edge_rss_mb=psutil.Process().memory_info().rss / 1e6,
        )


def used(before: Reading, after: Reading, *, is_plain: bool) -> dict[str, Any]:
    """What came in between, as fields of a `RunRecord`.

    The engine is busy while a pass of a session or a plain request is running.
    """
    busy = "plain_busy_s" if is_plain else "session_busy_s"
    known = before.server_cpu_s is not None and after.server_cpu_s is not None
    return {
        "target_passes": after.engine_steps - before.engine_steps,
        "engine_busy_s": getattr(after, busy) - getattr(before, busy),
        "server_cpu_s": (after.server_cpu_s or 0.0) - (before.server_cpu_s or 0.0) if known else None,
        "server_rss_mb": after.server_rss_mb,
        "edge_cpu_s": after.edge_cpu_s - before.edge_cpu_s,
        "edge_rss_mb": after.edge_rss_mb,
    }
