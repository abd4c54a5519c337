"""The figures of `pipesd bench gateway` as lines of text, each with its limit. Pure."""

from __future__ import annotations

from typing import Final

from benchmarks.speed.gateway_cost import MAX_TOKEN_MS, MAX_TTFT_MS, Cost, Spread
from benchmarks.speed.gateway_crowd import FLAT_SHARE, CrowdPlan, CrowdResult, Memory
from benchmarks.gateway_meter import CpuSplit

__all__ = ["MAX_LOOP_SHARE", "describe_cost", "describe_cpu", "describe_crowd"]

MAX_LOOP_SHARE: Final = 0.05
_MIB: Final = 1 << 20
_SHOWN_ERRORS: Final = 3


def describe_crowd(plan: CrowdPlan, crowd: CrowdResult) -> list[str]:
    """Errors, connections and memory."""
    lines = [
        f"{plan.num_clients} clients, {plan.at_once} answers at a time: {crowd.num_answers} answers, "
        f"{len(crowd.errors)} errors, {crowd.num_connections} connections opened"
    ]
    lines += [f"  {error}" for error in crowd.errors[:_SHOWN_ERRORS]]
    if crowd.memory is None:
        return [*lines, "memory: not measured (too few answers)"]
    return [*lines, _memory(crowd.memory)]


def _memory(memory: Memory) -> str:
    sizes = (memory.start, memory.middle, memory.end, memory.most)
    start, middle, end, most = (size / _MIB for size in sizes)
    flat = "flat" if memory.is_flat else "growing"
    return (
        f"memory of the process: {start:.1f} MiB at the start, {middle:.1f} in the middle, {end:.1f} at the "
        f"end, {most:.1f} at most: {flat} ({memory.growth:+.2%} in the second half; limit {FLAT_SHARE:.0%})"
    )


def describe_cpu(cpu: CpuSplit) -> str:
    """The event loop's share of all CPU."""
    parts = f"event loop (gateway and sessions) {cpu.loop_s:.1f} s, drafting {cpu.other_s:.1f} s"
    if cpu.loop_share is None:
        return f"CPU: {parts}; its share: not measured (needs a server started here: leave out --cloud)"
    return (
        f"CPU: {parts}, server {cpu.server_s:.1f} s: the event loop has {cpu.loop_share:.1%} "
        f"(limit {MAX_LOOP_SHARE:.0%})"
    )


def describe_cost(name: str, cost: Cost) -> list[str]:
    """What HTTP and gateway add, on the generator called `name`."""
    return [
        f"added to a streamed token ({name}): {_spread(cost.token_ms)}; limit {MAX_TOKEN_MS} ms",
        f"added to the first token ({name}): {_spread(cost.ttft_ms)}; limit {MAX_TTFT_MS:.0f} ms",
    ]


def _spread(samples: Spread) -> str:
    return f"{samples.median:.3f} ms (median of {samples.num}; p90 {samples.p90:.3f} ms)"
