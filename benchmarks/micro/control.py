"""What the control plane costs: batch plan, trigger and monitor, for each drafted token.

No model and no network: only the decisions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.harness.rivals import DEFAULT_PARAMETERS
from edge_agent.control.batch_schedule import BatchScheduler, plan_batches
from edge_agent.control.monitor import EnvironmentMonitor
from edge_agent.control.policies.base import ChainView, CommitOutcome, Decision
from edge_agent.control.policies.registry import make_policy

__all__ = ["ControlOverhead", "describe", "measure"]

PLAN_TOKENS = 20
_LINKS_S = {
    # (alpha, beta a token, gamma a token)
    "persistent stream": (1e-4, 2e-6, 0.007),
    "token ids over 20 Mbit/s": (0.025, 2e-6, 0.043),
    "whole distributions over 20 Mbit/s": (0.025, 0.116, 0.043),
    "as slow as drafting": (1e-6, 0.0071, 0.007),
}


@dataclass(frozen=True, slots=True)
class ControlOverhead:
    """Medians, in seconds of the thread's own CPU time: other work on the machine does not count."""

    plan_s: dict[str, float]
    """`plan_batches` for a window of 20, by link."""
    per_token_s: dict[str, float]
    """Trigger, monitor, replanning and refitting for each drafted token, by policy."""
    gamma_s: float


def measure(
    gamma_s: float = 0.007,
    *,
    num_tokens: int = 2000,
    repeats: int = 5,
    clock: Callable[[], float] = time.thread_time,
) -> ControlOverhead:
    """Time everything `repeats` times; `gamma_s` is what a draft step costs in the comparison."""
    plans = {name: _time_plan(costs, num_tokens // 10, repeats, clock) for name, costs in _LINKS_S.items()}
    policies = {
        name: median([_time_decisions(name, gamma_s, num_tokens, clock) for _ in range(repeats)])
        for name in ("pipesd", "adaptive")
    }
    return ControlOverhead(plans, policies, gamma_s)


def _time_plan(
    costs: tuple[float, float, float], num_plans: int, repeats: int, clock: Callable[[], float]
) -> float:
    times = []
    for _ in range(repeats):
        start_s = clock()
        for _ in range(num_plans):
            plan_batches(PLAN_TOKENS, *costs)
        times.append((clock() - start_s) / num_plans)
    return median(times)


def _time_decisions(name: str, gamma_s: float, num_tokens: int, clock: Callable[[], float]) -> float:
    """Seconds a token; the link changes by half every 50 tokens, so that plans are made again."""
    rng = random.Random(0)
    draws = [(rng.betavariate(5, 1), rng.uniform(0.9, 1.1), rng.random()) for _ in range(num_tokens)]
    loop = _SessionLoop(name)
    start_s = clock()
    for i, (probability, jitter, luck) in enumerate(draws):
        slowness = 1.5 if i // 50 % 2 else 1.0
        loop.draft(probability, gamma_s * jitter * slowness, slowness, luck)
    return (clock() - start_s) / num_tokens


class _SessionLoop:
    """Calls policy, scheduler and monitor as often as a session does; its own cost counts as theirs."""

    def __init__(self, name: str) -> None:
        self._monitor = EnvironmentMonitor()
        self._policy = make_policy(
            name, DEFAULT_PARAMETERS, BatchScheduler(self._monitor.link), costs=self._monitor.snapshot
        )
        self._num_drafted = 0
        self._num_sent = 0

    def draft(self, probability: float, step_s: float, slowness: float, luck: float) -> None:
        self._num_drafted += 1
        num_unsent = self._num_drafted - self._num_sent
        self._monitor.on_draft_step(step_s)
        decision = self._policy.on_draft(probability, ChainView(self._num_drafted, num_unsent, False))
        if decision is Decision.KEEP:
            return
        self._num_sent = self._num_drafted
        self._monitor.on_upload(num_unsent, 0.0001 + 0.002 * slowness * num_unsent)
        if decision is Decision.VERIFY:
            self._answer(slowness, luck)

    def _answer(self, slowness: float, luck: float) -> None:
        """The server verifies all drafts; `luck` in [0, 1) says how many it keeps."""
        num_drafted, self._num_drafted, self._num_sent = self._num_drafted, 0, 0
        num_accepted = int(luck * (num_drafted + 1))
        self._monitor.on_verify_round(num_drafted, 0.055 + 0.002 * slowness * luck, 0.001, 0.020)
        self._monitor.on_acceptance(num_drafted, num_accepted)
        rolled_back = num_accepted < num_drafted
        self._policy.on_commit(CommitOutcome((), num_drafted, num_accepted, rolled_back))
        view = ChainView(0, 0, awaiting_commit=False)
        self._policy.after_commit(view)
        self._policy.ahead(view)
        self._monitor.snapshot()


def describe(figures: ControlOverhead) -> list[str]:
    """The figures as lines of text."""
    gamma_s = figures.gamma_s
    lines = [f"plan_batches(N={PLAN_TOKENS}), us:"]
    lines += [f"  {name:36} {seconds * 1e6:7.1f}" for name, seconds in figures.plan_s.items()]
    lines.append("DP + trigger + monitor, us a drafted token (share of gamma):")
    lines += [
        f"  {name:36} {seconds * 1e6:7.1f}  ({seconds / gamma_s:.3%} of {gamma_s * 1e3:g} ms)"
        for name, seconds in figures.per_token_s.items()
    ]
    return lines
