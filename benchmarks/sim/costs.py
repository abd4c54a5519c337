"""What servers and drafts cost in simulated runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from benchmarks.sim.plan import DraftCost, StepCost
from openai_gateway.cli.errors import CliError

__all__ = ["COSTS", "GPU_COSTS", "Costs", "costs_named"]


@dataclass(frozen=True, slots=True)
class Costs:
    """A server's costs, and what a draft token costs here."""

    step: StepCost
    draft_s: float = 0.008
    """A call of the draft model on this machine; a scenario may name another device's."""
    front_s: float = 0.0
    """Between connection and engine, both ways together, beyond the IPC of `ServerPlan`."""
    async_scheduling: bool = True
    max_num_seqs: int = 256

    def draft(self, gamma_s: float) -> DraftCost:
        """Of a device that takes `gamma_s` a token; 0: this machine."""
        return DraftCost(call_s=gamma_s or self.draft_s)


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
        # The same two cores where a row is dear: 85 ms for one, 121 ms for eight.
        "cpu-rows": Costs(StepCost(base_s=0.085, token_s=0.0051), async_scheduling=False, max_num_seqs=16),
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
