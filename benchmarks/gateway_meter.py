"""Memory and CPU of a gateway's process, its event loop counted apart from its drafting."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

__all__ = ["CpuSplit", "ProcessMeter"]


@dataclass(frozen=True, slots=True)
class CpuSplit:
    """CPU seconds. `loop_s`: the event loop's thread, which is gateway, session logic and network of the
    edge agent; `other_s`: the process's other threads, which is drafting."""

    loop_s: float
    other_s: float
    server_s: float | None = None
    """All processes of the server; None if it is not ours to measure."""

    def since(self, earlier: CpuSplit) -> CpuSplit:
        """What was used after `earlier`."""
        measured = self.server_s is not None and earlier.server_s is not None
        server_s = (self.server_s or 0.0) - (earlier.server_s or 0.0) if measured else None
        return CpuSplit(self.loop_s - earlier.loop_s, self.other_s - earlier.other_s, server_s)

    @property
    def loop_share(self) -> float | None:
        """The event loop's part of all, drafting and server included; None without the server's figure."""
        if self.server_s is None:
            return None
        total_s = self.loop_s + self.other_s + self.server_s
        return self.loop_s / total_s if total_s else None


class ProcessMeter:
    """Reads a process whose main thread runs the event loop (`pipesd edge` is one)."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def rss(self) -> int:
        """Resident bytes now."""
        return int(self._process.memory_info().rss)

    def cpu(self, server_s: float | None = None) -> CpuSplit:
        """CPU used so far; `server_s` is passed on."""
        # Linux: the main thread's id is the process's. Threads that have ended are in the total alone.
        main = [thread for thread in self._process.threads() if thread.id == self._process.pid]
        main_s = sum(thread.user_time + thread.system_time for thread in main)
        times = self._process.cpu_times()
        return CpuSplit(main_s, times.user + times.system - main_s, server_s)
