"""Runs plans and has them judged: one, a corpus, or many by seed on several processes."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from functools import lru_cache
from multiprocessing.context import BaseContext
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from benchmarks.sim import models
from benchmarks.sim.figures import Figures, changes, figures_of, golden_plans
from benchmarks.sim.generate import plan_of
from benchmarks.sim.judge import Finding, Kind, judge
from benchmarks.sim.outcome import Outcome
from benchmarks.sim.plan import Plan
from benchmarks.sim.planted import PLANTED
from edge_agent.api import Sampling

__all__ = [
    "Examined",
    "Hunt",
    "Judged",
    "Tally",
    "examine",
    "examine_seed",
    "examine_seeds",
    "hunt",
    "hunt_all",
    "reference",
    "settle_memory",
]

_CHUNK: Final = 10
"""Seeds that a process takes at a time."""
_SEEDS_IF_FIGURES: Final = 300
"""So many seeds hunt a planted bug that the figures have found."""


class Judged(NamedTuple):
    """A run and what is wrong with it."""

    outcome: Outcome
    findings: list[Finding]


def reference(target: str, prompt: Sequence[int], sampling: Sampling) -> list[int]:
    """The tokens that the target generates by itself; forms are the engine's business, so it is asked."""
    if sampling.structure is None:
        return models.reference(target, prompt, sampling)
    return list(_alone(target, tuple(prompt), msgspec.json.encode(sampling)))


@lru_cache(maxsize=256)
def _alone(target: str, prompt: tuple[int, ...], sampling: bytes) -> tuple[int, ...]:
    """As `answer_alone`, kept: a plan and the one without faults ask the same."""
    from benchmarks.sim.world import answer_alone

    return tuple(answer_alone(target, prompt, msgspec.json.decode(sampling, type=Sampling)))


def examine(plan: Plan, *, keep_events: bool = False) -> Judged:
    """Run `plan`, and without its faults once more as the yardstick for time and passes; judge it."""
    from benchmarks.sim.world import run

    outcome = run(plan, keep_events=keep_events)
    clean = run(replace(plan, faults=(), settle_s=0.0)) if plan.faults else None
    return Judged(outcome, judge(outcome, clean, reference))


class Examined(NamedTuple):
    """What came of one seed, small enough to be sent between processes."""

    seed: int
    num_tokens: int
    cpu_s: float
    findings: list[Finding]


def examine_seed(seed: int) -> Examined:
    """The plan of `seed`, run and judged."""
    outcome, findings = examine(plan_of(seed))
    return Examined(seed, sum(len(chat.tokens) for chat in outcome.chats), outcome.cpu_s, findings)


def examine_seeds(seeds: Sequence[int], num_jobs: int) -> Iterator[Examined]:
    """Each of `seeds` as it is done, on `num_jobs` processes that share one import of vLLM."""
    if num_jobs == 1:
        for number, seed in enumerate(seeds):
            if number % _CHUNK == 0:
                settle_memory()
            yield examine_seed(seed)
        return
    pool = ProcessPoolExecutor(num_jobs, _context(), initializer=_ignore_interrupts)
    chunks = iter([list(seeds[i : i + _CHUNK]) for i in range(0, len(seeds), _CHUNK)])
    try:
        running: set[Future[list[Examined]]] = set()
        while True:
            while len(running) < 2 * num_jobs and (chunk := next(chunks, None)) is not None:
                running.add(pool.submit(_examine_chunk, chunk))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _context() -> BaseContext:
    """Processes that share one import of vLLM."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.sim.world"])
    return context


def _examine_chunk(seeds: Sequence[int]) -> list[Examined]:
    settle_memory()
    return [examine_seed(seed) for seed in seeds]


def _ignore_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal; the first one says what was done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def settle_memory() -> None:
    """Runs collect no garbage: collect it between them, and look no more at what stays."""
    gc.collect()
    gc.freeze()


class Hunt(NamedTuple):
    """How a planted bug was found."""

    name: str
    num_changed: int
    """Fault-free plans whose figures are others."""
    seed: int | None
    """The first one whose plan fails; None: none did."""
    finding: str

    @property
    def is_found(self) -> bool:
        return self.seed is not None or self.num_changed > 0


def hunt_all(golden: Mapping[str, Figures], num_seeds: int, num_jobs: int) -> Iterator[Hunt]:
    """Each planted bug, hunted by the golden figures and by the seeds from 0 on, as they are done."""
    pool = ProcessPoolExecutor(num_jobs, _context(), initializer=_ignore_interrupts)
    try:
        hunts = [pool.submit(hunt, bug.name, golden, num_seeds) for bug in PLANTED]
        for future in as_completed(hunts):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def hunt(name: str, golden: Mapping[str, Figures], num_seeds: int) -> Hunt:
    """Hunt the planted bug `name`; one that changes the figures is hunted by fewer seeds."""
    from benchmarks.sim.world import run

    bug = next(bug for bug in PLANTED if bug.name == name)
    with bug.planted():
        settle_memory()
        now = {plan_name: figures_of(run(plan)) for plan_name, plan in golden_plans().items()}
        num_changed = sum(bool(changes(golden[n], figures)) for n, figures in now.items())
        for seed in range(min(num_seeds, _SEEDS_IF_FIGURES) if num_changed else num_seeds):
            if seed % _CHUNK == 0:
                settle_memory()
            if findings := examine_seed(seed).findings:
                return Hunt(name, num_changed, seed, str(findings[0]))
    return Hunt(name, num_changed, None, "")


class Tally:
    """Adds up what came of many seeds."""

    def __init__(self) -> None:
        self.schedules = 0
        self.tokens = 0
        self.by_kind: Counter[Kind] = Counter()
        self.findings: list[tuple[int, Finding]] = []

    def add(self, examined: Examined) -> None:
        """Count one seed: a kind once, however often it was found there."""
        self.schedules += 1
        self.tokens += examined.num_tokens
        self.by_kind.update({finding.kind for finding in examined.findings})
        self.findings += [(examined.seed, finding) for finding in examined.findings]

    def as_json(self, seconds: float) -> dict[str, float]:
        """Schedules, tokens, schedules with a finding of each kind, and seconds of wall time."""
        kinds = {str(kind): self.by_kind[kind] for kind in Kind}
        return {"schedules": self.schedules, "tokens": self.tokens, **kinds, "seconds": round(seconds, 1)}
