"""Who is compared, and in which order: the literature's policies on two wires, ours, each end alone. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Final

from edge_agent.api import SessionMode
from edge_agent.control import PolicyParameters
from edge_agent.control.policies.literature import CODE_WINDOW, MATHS_WINDOW
from edge_agent.control.policies.registry import DEFAULT_POLICY, Task, literature_parameters
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.errors import CliError

__all__ = [
    "CLOUD",
    "DEFAULT_PARAMETERS",
    "EVERYBODY",
    "LOCAL",
    "Job",
    "Rival",
    "Way",
    "Wire",
    "interleaved",
    "label_of",
    "parse_rivals",
    "rival_parameters",
]

DEFAULT_PARAMETERS: Final = PolicyParameters(
    **{
        field.name: EdgeSettings.model_fields[field.name].default
        for field in fields(PolicyParameters)
        if field.name in EdgeSettings.model_fields  # the others are the tuner's alone
    }
)
"""Our policy's unless a flag says otherwise: the agent's own defaults, read where they stand."""


class Way(enum.StrEnum):
    """The ways to make an answer that are compared."""

    COLLABORATIVE = "collaborative"
    """Through the gateway: drafted here, committed by the target."""
    CLOUD = "cloud"
    """Plain streaming from the same server."""
    LOCAL = "local"
    """The draft model alone."""


class Wire(enum.StrEnum):
    """What a draft token weighs on the way up."""

    THIN = "thin"
    """Its id."""
    PUBLISHED = "published"
    """Its id and the draft's whole distribution, see `benchmarks/wire/padded.py`."""


CLOUD: Final = Way.CLOUD.value
LOCAL: Final = Way.LOCAL.value
_BASELINES: Final = ("vanilla", "hsl", "edgellm", "pipesd")
EVERYBODY: Final = (CLOUD, LOCAL, *_BASELINES, DEFAULT_POLICY)
_BASELINE_WINDOW: Final = 16
_BASELINE_AHEAD: Final = 32


@dataclass(frozen=True, slots=True)
class Rival:
    """`wire` and `mode` are None where nothing is drafted for the server."""

    policy: str
    wire: Wire | None = None
    mode: SessionMode | None = None

    @property
    def label(self) -> str:
        """Short and unique."""
        return label_of(self.policy, self.wire, self.mode)

    @property
    def way(self) -> Way:
        """How its answers are made."""
        return Way(self.policy) if self.policy in (CLOUD, LOCAL) else Way.COLLABORATIVE


def label_of(policy: str, wire: str | None, mode: str | None) -> str:
    """Ours differ by mode, the others by wire."""
    detail = mode if policy == DEFAULT_POLICY else wire
    return policy if detail is None else f"{policy}:{detail}"


def parse_rivals(names: Sequence[str]) -> list[Rival]:
    """Names are policies, all variants of which are meant, or one variant as "pipesd:thin".

    Raises `CliError`.
    """
    chosen: list[Rival] = []
    for name in names:
        policy, _, detail = name.strip().partition(":")
        found = [rival for rival in _variants(policy) if detail in ("", rival.label.partition(":")[2])]
        if not found:
            raise CliError(
                f"There is no policy {name!r}: choose from {', '.join(EVERYBODY)}, "
                "or one variant such as pipesd:thin, pipesd:published, adaptive:offload.",
                exit_code=2,
            )
        chosen += [rival for rival in found if rival not in chosen]
    return chosen


def rival_parameters(policy: str, ours: PolicyParameters, task: Task) -> PolicyParameters:
    """`ours` for our own policy; what a baseline was published or reproduced with for it.

    Baselines have no bounds in the literature; theirs are wide enough not to matter.
    """
    if policy not in _BASELINES:
        return ours
    wide = replace(ours, max_window=_BASELINE_WINDOW, max_ahead=_BASELINE_AHEAD)
    if policy == "vanilla":
        return replace(wide, max_window=CODE_WINDOW if task == "code" else MATHS_WINDOW)
    return literature_parameters(policy, wide, task)


def _variants(policy: str) -> list[Rival]:
    if policy in (CLOUD, LOCAL):
        return [Rival(policy)]
    if policy in _BASELINES:
        # Like the published systems: the server does nothing without drafts.
        return [Rival(policy, wire, SessionMode.OFFLOAD) for wire in (Wire.PUBLISHED, Wire.THIN)]
    if policy == DEFAULT_POLICY:
        return [Rival(policy, Wire.THIN, mode) for mode in SessionMode]
    return []


@dataclass(frozen=True, slots=True)
class Job:
    """One generation. `number` is that of (seed, dataset, prompt): the same for all rivals."""

    number: int
    seed: int
    dataset: str
    prompt: int
    rival: Rival


def interleaved(num_seeds: int, num_prompts: Mapping[str, int], rivals: Sequence[Rival]) -> Iterator[Job]:
    """All rivals of a prompt one after the other; another one comes first with each prompt and each seed.

    Slow drift of the machine, and caches that get warm, then favour nobody.
    """
    cases = [(name, i) for name, num in num_prompts.items() for i in range(num)]
    for number, (seed, (case, (dataset, prompt))) in enumerate(product(range(num_seeds), enumerate(cases))):
        first = (seed + case) % len(rivals)
        for rival in (*rivals[first:], *rivals[:first]):
            yield Job(number, seed, dataset, prompt, rival)
