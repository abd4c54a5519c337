"""What the autotuner costs: time of a suggestion, processor time of a search, what tokens notice."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.harness.rivals import DEFAULT_PARAMETERS
from edge_agent.control.tuning.background import NUM_FIRST
from edge_agent.control.tuning.gp_process import GpProcess
from edge_agent.control.tuning.search import PAPER_THRESHOLDS, Evaluation, SearchSpace, SobolProposer
from edge_agent.control.tuning.tuner import TrialSettings, Tuner, TunerSettings

__all__ = ["measure"]

_SPACE: Final = SearchSpace(DEFAULT_PARAMETERS)
_NUM_DIMENSIONS: Final = len(_SPACE.dimensions)
_NUM_EVALUATIONS: Final = TunerSettings().num_evaluations
_TPT_MS: Final = 20.0
_TOKENS_PER_COMMIT: Final = 4


@dataclass(frozen=True, slots=True)
class _ProcessCost:
    """Of the model's process for one search."""

    suggestion_s: dict[int, float]
    """Wall time by number of evaluations; the first includes the start."""
    cpu_s: float
    memory_mb: float


def measure() -> list[str]:
    """All figures, as lines of text. Raises `GpProcessError` without BoTorch."""
    start = _measure_process([NUM_FIRST])
    search = _measure_process(range(NUM_FIRST, _NUM_EVALUATIONS + 1))
    shown = ", ".join(f"{n}: {1e3 * s:.0f}" for n, s in list(search.suggestion_s.items())[1:])
    trials_s = _NUM_EVALUATIONS * TrialSettings().min_num_tokens * _TPT_MS / 1e3
    observe_s = _measure_observe()
    mean_s = statistics.mean(observe_s)
    return [
        f"fit and acquisition, wall ms by number of points: {shown}",
        f"model's process: {search.memory_mb:.0f} MB, one thread, low priority, ends with the search",
        f"  to start and answer once: {start.cpu_s:.1f} s of one core; a search: {search.cpu_s:.1f} s",
        *(
            f"  = {search.cpu_s / use_s:.2%} of one core over {use}, {use_s:.0f} s at {_TPT_MS:g} ms a token"
            for use, use_s in (("the shortest search", trials_s), ("ten minutes of use", 600.0))
        ),
        f"observe, a commit: mean {1e6 * mean_s:.0f} us, worst {1e3 * max(observe_s):.2f} ms",
        f"  = {mean_s / (_TOKENS_PER_COMMIT * _TPT_MS / 1e3):.3%} of wall time at {_TPT_MS:g} ms a token, "
        f"{_TOKENS_PER_COMMIT} tokens a commit",
    ]


def _measured(num_points: int) -> list[Evaluation]:
    """Points as a search has them: spread out, costs between 20 and 60 ms."""
    first = SobolProposer(_NUM_DIMENSIONS, 1)
    seen: list[Evaluation] = []
    for _ in range(num_points):
        point = first.suggest(seen).point
        seen.append(Evaluation(point, 20.0 + 40.0 * sum((x - 0.4) ** 2 for x in point), 64, 0.08))
    return seen


def _measure_process(numbers: Sequence[int]) -> _ProcessCost:
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
    return _ProcessCost(times, cpu_s, after.ru_maxrss / 1024)


def _measure_observe(num_commits: int = 20_000) -> list[float]:
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
