"""What the tuner has measured, and how it compares. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.space import SearchSpace

__all__ = ["Observation", "adapted", "mean_costs", "ranked"]


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished trial."""

    parameters: PolicyParameters
    cost_ms: Annotated[float, msgspec.Meta(gt=0.0)]
    """The objective per accepted token, see `trial.Trial`; of a trial that was cut short, at least this."""
    num_tokens: Annotated[int, msgspec.Meta(ge=1)]
    """Accepted tokens it was measured over."""
    relative_error: Annotated[float, msgspec.Meta(ge=0.0)]
    """Standard error of `cost_ms`, as a share of it."""


def mean_costs(observations: Sequence[Observation]) -> dict[PolicyParameters, float]:
    """Cost of each point in ms, averaged over its observations, weighted by their tokens."""
    sums: dict[PolicyParameters, tuple[float, int]] = {}
    for seen in observations:
        cost_ms, num_tokens = sums.get(seen.parameters, (0.0, 0))
        sums[seen.parameters] = cost_ms + seen.cost_ms * seen.num_tokens, num_tokens + seen.num_tokens
    return {parameters: cost_ms / num_tokens for parameters, (cost_ms, num_tokens) in sums.items()}


def ranked(
    observations: Sequence[Observation], estimates: Sequence[float] | None = None
) -> list[PolicyParameters]:
    """The distinct points, best first.

    By `estimates`, a model's of each observation's cost in the same order, if there are any: a model sees
    through lucky samples. By average cost otherwise.
    """
    costs = mean_costs(observations)
    if estimates is not None:
        costs = {seen.parameters: cost for seen, cost in zip(observations, estimates, strict=True)}
    return sorted(costs, key=lambda parameters: costs[parameters])


def adapted(observations: Sequence[Observation], space: SearchSpace) -> list[Observation]:
    """`observations`, perhaps of another space, each moved to the nearest point of this one."""
    return [dataclasses.replace(o, parameters=space.nearest(o.parameters)) for o in observations]
