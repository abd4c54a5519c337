"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.policies.adaptive import AdaptivePolicy
from edge_agent.control.policies.base import Policy, PolicyParameters
from edge_agent.control.policies.literature import (
    CODE_WINDOW,
    MATHS_WINDOW,
    EdgeLlmPolicy,
    HslPolicy,
    VanillaPolicy,
)
from edge_agent.control.policies.pipesd import PipeSdPolicy
from edge_agent.errors import ConfigError

__all__ = ["DEFAULT_POLICY", "POLICY_NAMES", "Task", "literature_parameters", "make_policy"]

POLICY_NAMES: Final = ("adaptive", "pipesd", "edgellm", "hsl", "vanilla")
DEFAULT_POLICY: Final = "adaptive"
Task = Literal["code", "maths"]

_Thresholds = tuple[float | None, float | None]
_LITERATURE: Final[Mapping[tuple[str, Task], _Thresholds]] = MappingProxyType(
    {
        # (R1, R2); None: the policy does not use it
        ("pipesd", "code"): (0.9, 0.35),
        ("pipesd", "maths"): (0.9, 0.35),  # none published for maths
        ("edgellm", "code"): (0.92, None),
        ("edgellm", "maths"): (0.5, None),
        ("hsl", "code"): (None, 0.99),
        ("hsl", "maths"): (None, 0.7),
    }
)


def make_policy(
    name: str,
    parameters: PolicyParameters,
    scheduler: BatchScheduler,
    *,
    task: Task = "code",
    costs: Callable[[], EnvironmentSnapshot] | None = None,
) -> Policy:
    """A policy for one session; `scheduler` is shared by the sessions of a link.

    `task` sets vanilla's window; `costs` tells what drafting and a token cost now (None: unknown).
    Raises `ConfigError` for an unknown name.
    """
    match name:
        case "adaptive":
            return AdaptivePolicy(parameters, scheduler, costs)
        case "pipesd":
            return PipeSdPolicy(parameters, scheduler)
        case "edgellm":
            return EdgeLlmPolicy(parameters)
        case "hsl":
            return HslPolicy(parameters)
        case "vanilla":
            return VanillaPolicy(parameters, CODE_WINDOW if task == "code" else MATHS_WINDOW)
    raise ConfigError(f"Unknown policy {name!r}; choose one of {', '.join(POLICY_NAMES)}.")


def literature_parameters(name: str, parameters: PolicyParameters, task: Task) -> PolicyParameters:
    """`parameters` with the thresholds that a baseline was published or reproduced with."""
    r1, r2 = _LITERATURE.get((name, task), (None, None))
    return replace(
        parameters,
        sequence_threshold=parameters.sequence_threshold if r1 is None else r1,
        token_threshold=parameters.token_threshold if r2 is None else r2,
    )
