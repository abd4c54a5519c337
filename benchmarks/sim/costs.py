"""What engines and drafts cost in simulated runs: given sets, and a fit to traces of real runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Final

import numpy as np

from benchmarks.sim.plan import DraftCost, StepCost
from edge_agent.tracing import Committed, Drafted, Sent, SessionStarted, TraceEvent
from openai_gateway.cli.errors import CliError

__all__ = ["COSTS", "GPU_COSTS", "Costs", "costs_named", "fitted_costs"]


@dataclass(frozen=True, slots=True)
class Costs:
    """A server's costs, and the least that a draft token costs."""

    step: StepCost
    draft_s: float = 0.008
    """A call of the draft model on this machine; a scenario may say that its device is slower."""
    front_s: float = 0.0
    """Between connection and engine, both ways together, beyond the IPC of `ServerPlan`."""
    async_scheduling: bool = True
    max_num_seqs: int = 256

    def draft(self, gamma_s: float) -> DraftCost:
        """Of a device that takes `gamma_s` a token; 0: this machine."""
        return DraftCost(call_s=max(gamma_s, self.draft_s))


_H100_OVERHEAD_S: Final = 1.207e-3
_H100_BASE_S: Final = 5.886e-3
_H100_TOKEN_S: Final = 2.101e-5
_H100_CONTEXT_S: Final = 3.926e-8

COSTS: Final = MappingProxyType(
    {
        # About an 8B on one H100, a 70B on four, a 70B on two.
        "gpu-7": Costs(StepCost(base_s=0.007, token_s=2.1e-5)),
        "gpu-15": Costs(StepCost(base_s=0.015, token_s=5.9e-5)),
        "gpu-30": Costs(StepCost(base_s=0.030, token_s=1.18e-4)),
        # Llama 3.1 8B in bfloat16, fitted in NVIDIA's SpecDecode-Bench: its overhead is paid in each step.
        "h100-8b": Costs(
            StepCost(
                base_s=_H100_OVERHEAD_S + _H100_BASE_S + _H100_TOKEN_S,
                token_s=_H100_TOKEN_S,
                context_s=_H100_CONTEXT_S,
            )
        ),
        # The embedded target in bfloat16 on two cores.
        "cpu": Costs(StepCost(base_s=0.065, token_s=0.0005), async_scheduling=False, max_num_seqs=16),
    }
)
GPU_COSTS: Final = ("gpu-7", "gpu-15", "gpu-30", "h100-8b")


def costs_named(name: str) -> Costs:
    """One of `COSTS`. Raises `CliError`."""
    try:
        return COSTS[name]
    except KeyError:
        known = ", ".join(COSTS)
        raise CliError(f"There are no costs {name!r}: choose from {known}.", exit_code=2) from None


def fitted_costs(sessions: Iterable[Sequence[TraceEvent]], rtt_s: float) -> Costs:
    """Fit to traces of real runs over a link of `rtt_s`, on a server without async scheduling.

    `front_s` comes from `vanilla`, which has one request under way and nothing else. Raises `ValueError` if
    the traces hold none of its rounds.
    """
    calls: list[float] = []
    passes: dict[int, list[float]] = {}
    fronts: list[float] = []
    for events in sessions:
        commits = [event for event in events if isinstance(event, Committed)]
        calls += [event.t_end - event.t_start for event in events if isinstance(event, Drafted)]
        for commit in commits[1:]:
            if commit.passes == 1:
                passes.setdefault(commit.num_verified, []).append(commit.step_ms / 1e3)
        if any(isinstance(event, SessionStarted) and event.policy == "vanilla" for event in events):
            fronts += _fronts(events, rtt_s)
    if not fronts or not passes:
        raise ValueError("no verify rounds of vanilla in the traces")
    return Costs(
        _fitted_step(passes),
        draft_s=median(calls),
        front_s=max(0.0, median(fronts)),
        async_scheduling=False,
    )


def _fitted_step(passes: Mapping[int, Sequence[float]]) -> StepCost:
    """By the number of drafts verified: a line through the medians, each with the weight of its passes."""
    sizes = sorted(passes)
    medians, weights = [median(passes[size]) for size in sizes], [len(passes[size]) for size in sizes]
    if len(sizes) == 1:
        return StepCost(base_s=medians[0], token_s=0.0)
    slope, base = np.polyfit(sizes, medians, 1, w=np.sqrt(weights))
    return StepCost(base_s=float(base), token_s=max(0.0, float(slope)))


def _fronts(events: Sequence[TraceEvent], rtt_s: float) -> Iterator[float]:
    """What each round took beyond link, queue and step."""
    sent_s: float | None = None
    for event in events:
        if isinstance(event, Sent) and event.verify:
            sent_s = event.t
        elif isinstance(event, Committed) and event.num_verified and sent_s is not None:
            yield event.t - sent_s - (event.step_ms + event.queue_ms) / 1e3 - rtt_s
            sent_s = None
