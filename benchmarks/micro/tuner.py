"""What the autotuner costs: `python -m benchmarks.tuner_overhead`. Needs BoTorch.

Three figures: how long a suggestion takes, what a search costs in processor time, and what of all this the
tokens notice (time inside `observe`, and how late an event loop becomes while suggestions are computed).
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from benchmarks.default_parameters import DEFAULT_PARAMETERS
from edge_agent.tuning.background import NUM_FIRST
from edge_agent.tuning.gp_process import GpProcess
from edge_agent.tuning.proposers import Evaluation, SobolProposer
from edge_agent.tuning.space import PAPER_THRESHOLDS, SearchSpace
from edge_agent.tuning.state import TunerSettings
from edge_agent.tuning.trial import TrialSettings
from edge_agent.tuning.tuner import Tuner

_SPACE: Final = SearchSpace(DEFAULT_PARAMETERS)
_NUM_DIMENSIONS: Final = len(_SPACE.dimensions)
_NUM_EVALUATIONS: Final = TunerSettings().num_evaluations
_TPT_MS: Final = 20.0
_TOKENS_PER_COMMIT: Final = 4


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """Of the model's process for one search."""

    suggestion_s: dict[int, float]
    """Wall time by number of evaluations; the first includes the start."""
    cpu_s: float
    memory_mb: float


def _measured(num_points: int) -> list[Evaluation]:
    """Points as a search has them: spread out, costs between 20 and 60 ms."""
    first = SobolProposer(_NUM_DIMENSIONS, 1)
    seen: list[Evaluation] = []
    for _ in range(num_points):
        point = first.suggest(seen).point
        seen.append(Evaluation(point, 20.0 + 40.0 * sum((x - 0.4) ** 2 for x in point), 64, 0.08))
    return seen


def measure_process(numbers: Sequence[int]) -> ProcessCost:
    """Ask a fresh process for one suggestion at each of `numbers` of evaluations."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = GpProcess(_NUM_DIMENSIONS, 0)
    times: dict[int, float] = {}
    try:
        for number in numbers:
            started_s = time.perf_counter()
            process.suggest(_measured(number))
            times[number] = time.perf_counter() - started_s
    finally:
        process.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ProcessCost(times, cpu_s, after.ru_maxrss / 1024)


def measure_observe(num_commits: int = 20_000) -> list[float]:
    """Seconds of each `Tuner.observe` over a search and the use of its result, model answers aside."""
    start = (_SPACE.base, _SPACE.with_thresholds(*PAPER_THRESHOLDS))
    tuner = Tuner(_SPACE, start, SobolProposer(_NUM_DIMENSIONS, 0), TunerSettings())
    times = []
    for i in range(num_commits):
        elapsed_s = _TOKENS_PER_COMMIT * _TPT_MS / 1e3 * (0.7 + 0.6 * (i % 2))
        under = tuner.parameters
        started_s = time.perf_counter()
        tuner.observe(_TOKENS_PER_COMMIT, elapsed_s, 1, under)
        times.append(time.perf_counter() - started_s)
    return times


async def _lateness(stop: asyncio.Event) -> list[float]:
    """How late a 2 ms timer of this loop comes, in seconds, until `stop`."""
    late = []
    while not stop.is_set():
        started_s = time.perf_counter()
        await asyncio.sleep(0.002)
        late.append(time.perf_counter() - started_s - 0.002)
    return late


def _suggest_in_thread(numbers: Sequence[int]) -> None:
    """What the process does, in a thread of this one: import and fits."""
    from edge_agent.tuning import gp

    gp.use_one_thread()
    proposer = gp.GpProposer(_NUM_DIMENSIONS, 0)
    for number in numbers:
        proposer.suggest(_measured(number))


async def measure_lateness(numbers: Sequence[int]) -> dict[str, list[float]]:
    """Lateness of an event loop at rest, beside the process, and beside the same work in a thread."""
    loop, found = asyncio.get_running_loop(), {}
    works = {
        "idle": lambda: time.sleep(6.0),
        "process": lambda: measure_process(numbers),
        "thread": lambda: _suggest_in_thread(numbers),
    }
    with ThreadPoolExecutor(1) as executor:
        for name, work in works.items():
            stop = asyncio.Event()
            timer = asyncio.create_task(_lateness(stop))
            await loop.run_in_executor(executor, work)
            stop.set()
            found[name] = await timer
    return found


def _print_process(start: ProcessCost, search: ProcessCost) -> None:
    shown = ", ".join(f"{n}: {1e3 * s:.0f}" for n, s in list(search.suggestion_s.items())[1:])
    print(f"fit and acquisition, wall ms by number of points: {shown}")
    print(f"model's process: {search.memory_mb:.0f} MB, one thread, low priority, ends with the search")
    print(f"  to start and answer once: {start.cpu_s:.1f} s of one core; a search: {search.cpu_s:.1f} s")
    trials_s = _NUM_EVALUATIONS * TrialSettings().min_num_tokens * _TPT_MS / 1e3
    for use, use_s in (("the shortest search", trials_s), ("ten minutes of use", 600.0)):
        print(
            f"  = {search.cpu_s / use_s:.2%} of one core over {use}, {use_s:.0f} s at {_TPT_MS:g} ms a token"
        )


def _print_observe(times: Sequence[float]) -> None:
    mean_s = statistics.mean(times)
    share = mean_s / (_TOKENS_PER_COMMIT * _TPT_MS / 1e3)
    print(f"observe, a commit: mean {1e6 * mean_s:.0f} us, worst {1e3 * max(times):.2f} ms")
    print(f"  = {share:.3%} of wall time at {_TPT_MS:g} ms a token, {_TOKENS_PER_COMMIT} tokens a commit")


def _print_lateness(name: str, late: Sequence[float]) -> None:
    p50, p99 = statistics.median(late), statistics.quantiles(late, n=100)[98]
    figures = f"{1e3 * p50:.1f} ms (p50), {1e3 * p99:.1f} (p99), {1e3 * max(late):.0f} (max)"
    print(f"event loop, {name}: late by {figures}")


def main() -> None:
    """Print all figures."""
    in_search = range(NUM_FIRST, _NUM_EVALUATIONS + 1)
    _print_process(measure_process([NUM_FIRST]), measure_process(in_search))
    _print_observe(measure_observe())
    for name, late in asyncio.run(measure_lateness(in_search)).items():
        _print_lateness(name, late)


if __name__ == "__main__":
    main()
