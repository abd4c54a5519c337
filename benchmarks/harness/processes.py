"""CPU time and memory of a server with all its processes.

A `ServerProcess` is the leader of a session of its own, which all that it starts belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil

__all__ = ["process_cpu_s", "session_cpu_s", "session_rss_mb"]


def session_cpu_s(session: int) -> float | None:
    """CPU seconds of all processes of `session` and their ended children; None: there are none."""
    return _total(
        sum(times[:2]) + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        for times in _of_session(session, lambda process: process.cpu_times())
    )


def process_cpu_s(session: int) -> dict[str, float]:
    """CPU seconds of the processes of `session` that still run, by name (as the system has it, cut off)."""
    found: dict[str, float] = {}
    for name, cpu_s in _of_session(session, lambda process: (process.name(), sum(process.cpu_times()[:2]))):
        found[name] = found.get(name, 0.0) + cpu_s
    return found


def session_rss_mb(session: int) -> float | None:
    """Resident memory in 10^6 bytes; pages that the processes share count more than once."""
    return _total(memory.rss / 1e6 for memory in _of_session(session, lambda process: process.memory_info()))


def _of_session(session: int, read: Callable[[psutil.Process], Any]) -> Iterator[Any]:
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                yield read(process)
        except (OSError, psutil.Error):
            continue  # it ended in between


def _total(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) if found else None
