"""Many clients that keep their connections, few of them generating at a time: errors, memory, CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import psutil

from benchmarks.harness.clients import Client, connected, exactly, question
from openai_gateway.cli.errors import CliError

__all__ = [
    "FLAT_SHARE",
    "CpuSplit",
    "CrowdPlan",
    "CrowdResult",
    "Memory",
    "ProcessMeter",
    "memory_of",
    "run_crowd",
]

FLAT_SHARE: Final = 0.02
"""Memory that grows by less than this share in the second half of a run counts as flat."""

_SUBJECTS: Final = ("rivers", "bread", "clocks", "bridges", "glass", "maps", "paper", "lighthouses")


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """`num_clients` connections; each asks `rounds` questions; `at_once` answers are under way at a time."""

    num_clients: int = 200
    at_once: int = 4
    rounds: int = 2
    num_tokens: int = 16

    @property
    def num_answers(self) -> int:
        return self.num_clients * self.rounds


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes: before the first answer, after half of them, after the last, the most."""

    start: int
    middle: int
    end: int
    most: int

    @property
    def growth(self) -> float:
        """Of the second half, as a share; the first fills caches."""
        return self.end / self.middle - 1

    @property
    def is_flat(self) -> bool:
        return self.growth < FLAT_SHARE


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """`errors` is empty if all went well; `num_connections` equals the clients' number if all were kept."""

    num_answers: int
    num_connections: int
    errors: tuple[str, ...]
    memory: Memory | None


def memory_of(samples: Sequence[int]) -> Memory | None:
    """From bytes in the order of measuring, the first before all answers; None for fewer than three."""
    if len(samples) < 3:
        return None
    return Memory(samples[0], samples[len(samples) // 2], samples[-1], max(samples))


async def run_crowd(
    base_url: str,
    plan: CrowdPlan,
    rss: Callable[[], int],
    show: Callable[[str], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> CrowdResult:
    """All clients connect; `at_once` warm-up answers; `on_start`; then the run.

    `rss` gives the gateway's resident bytes. Raises `CliError` if it does not answer at all.
    """
    slots = asyncio.Semaphore(plan.at_once)
    sizes: list[int] = []
    errors: list[str] = []

    async def ask(client: Client, number: int) -> None:
        subject = _SUBJECTS[number % len(_SUBJECTS)]
        try:
            body = {**question(f"Tell me about {subject}, part {number}."), **exactly(plan.num_tokens)}
            await client.stream(body)
        except CliError as error:
            errors.append(str(error))
        sizes.append(rss())
        show(f"{len(sizes) - 1} of {plan.num_answers} answers")

    async def visit(number: int, client: Client) -> None:
        for turn in range(plan.rounds):
            async with slots:
                await ask(client, number + turn)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(base_url)) for _ in range(plan.num_clients)]
        await asyncio.gather(*(client.model() for client in clients))
        show("Warming up")
        await asyncio.gather(*(ask(client, 0) for client in clients[: plan.at_once]))
        errors.clear()
        sizes[:] = [rss()]
        on_start()
        await asyncio.gather(*(visit(number, client) for number, client in enumerate(clients)))
        num_connections = sum(client.num_connections for client in clients)
    return CrowdResult(len(sizes) - 1, num_connections, tuple(errors), memory_of(sizes))


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
