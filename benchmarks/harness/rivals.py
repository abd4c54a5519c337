"""Who is compared: the literature's policies on two wires, ours in three modes, each end alone. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_agent.policies.base import PolicyParameters
from edge_agent.policies.registry import DEFAULT_POLICY, Task, literature_parameters
from edge_agent.policies.vanilla import CODE_WINDOW, MATHS_WINDOW
from openai_gateway.cli.errors import CliError
from pipesd_vllm.protocol import Mode

__all__ = ["CLOUD", "EVERYBODY", "LOCAL", "Rival", "Wire", "label_of", "parse_rivals", "rival_parameters"]

CLOUD: Final = "cloud"
"""Plain streaming from the server."""
LOCAL: Final = "local"
"""The draft model alone."""
_BASELINES: Final = ("vanilla", "hsl", "edgellm", "pipesd")
EVERYBODY: Final = (CLOUD, LOCAL, *_BASELINES, DEFAULT_POLICY)
_BASELINE_WINDOW: Final = 16
_BASELINE_AHEAD: Final = 32


class Wire(enum.StrEnum):
    """What a draft token weighs on the way up."""

    THIN = "thin"
    """Its id."""
    PUBLISHED = "published"
    """Its id and the draft's whole distribution, see `benchmarks/wire/padding.py`."""


@dataclass(frozen=True, slots=True)
class Rival:
    """`wire` and `mode` are None where nothing is drafted for the server."""

    policy: str
    wire: Wire | None = None
    mode: Mode | None = None

    @property
    def label(self) -> str:
        """Short and unique."""
        return label_of(self.policy, self.wire, self.mode)

    @property
    def is_ours(self) -> bool:
        return self.policy == DEFAULT_POLICY


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
        return [Rival(policy, wire, Mode.OFFLOAD) for wire in (Wire.PUBLISHED, Wire.THIN)]
    if policy == DEFAULT_POLICY:
        return [Rival(policy, Wire.THIN, mode) for mode in Mode]
    return []
