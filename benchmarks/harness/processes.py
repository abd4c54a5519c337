"""CPU time of a server with all its processes, from Linux's /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["ProcessTimes", "parse_stat", "session_cpu_s"]

_PROC: Final = Path("/proc")
# Fields of /proc/PID/stat after the command's name, counted from 0 (proc(5) counts from 3).
_SESSION: Final = 3
_TIMES: Final = slice(11, 15)

ProcessTimes = tuple[int, int]
"""Session id, and ticks of CPU used by the process and by its children that have ended."""


def parse_stat(stat: str) -> ProcessTimes:
    """Read one /proc/PID/stat. The command's name may hold blanks and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[_SESSION]), sum(int(ticks) for ticks in fields[_TIMES])


def session_cpu_s(session: int, proc: Path = _PROC) -> float | None:
    """CPU seconds used so far by all processes of `session`; None where there is no /proc.

    A `ServerProcess` is the leader of a session of its own, which all it starts belongs to.
    """
    if not (proc / "self").exists():
        return None
    ticks = 0
    for stat in proc.glob("[0-9]*/stat"):
        try:
            of, used = parse_stat(stat.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # it ended in between
        ticks += used if of == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")
