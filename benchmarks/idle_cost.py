"""What sessions cost the server while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.rounds import open_idle_turn
from edge_agent.transport import Connector, Transport

__all__ = ["IdleCost", "describe_idle", "measure_idle"]

NUM_IDLE_SESSIONS: Final = 4
IDLE_WINDOW_S: Final = 10.0
SETTLE_S: Final = 1.0

Show = Callable[[str], None]
CpuMeter = Callable[[], float | None]
"""CPU seconds that the server has used so far; None if that cannot be known."""
Sleep = Callable[[float], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class IdleCost:
    """CPU seconds of the server in a window without work."""

    window_s: float
    num_sessions: int
    without_sessions_s: float
    with_sessions_s: float


async def measure_idle(
    connector: Connector,
    cpu_s: CpuMeter,
    show: Show,
    window_s: float = IDLE_WINDOW_S,
    sleep: Sleep = asyncio.sleep,
) -> IdleCost | None:
    """None if the server's CPU time cannot be known. Raises `CloudError`."""
    await sleep(SETTLE_S)
    show(f"CPU without sessions, {window_s:.0f} s")
    without_s = await _used(cpu_s, window_s, sleep)
    async with AsyncExitStack() as stack:
        for _ in range(NUM_IDLE_SESSIONS):
            transport: Transport = await connector.connect()
            stack.push_async_callback(transport.close)
            await open_idle_turn(transport)
        await sleep(SETTLE_S)
        show(f"CPU with {NUM_IDLE_SESSIONS} idle sessions, {window_s:.0f} s")
        with_s = await _used(cpu_s, window_s, sleep)
    if without_s is None or with_s is None:
        return None
    return IdleCost(window_s, NUM_IDLE_SESSIONS, without_s, with_s)


def describe_idle(cost: IdleCost | None) -> str:
    """One line, CPU seconds."""
    if cost is None:
        return "idle sessions: not measured (needs Linux, and a server started here: leave out --cloud)"
    return (
        f"idle sessions: {cost.with_sessions_s:.2f} s of CPU in {cost.window_s:.0f} s with "
        f"{cost.num_sessions} of them, {cost.without_sessions_s:.2f} s with none"
    )


async def _used(cpu_s: CpuMeter, window_s: float, sleep: Sleep) -> float | None:
    before_s = cpu_s()
    if before_s is None:
        return None
    await sleep(window_s)
    after_s = cpu_s()
    return None if after_s is None else after_s - before_s
