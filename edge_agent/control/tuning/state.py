"""Settings, phases and the lasting state of the tuner. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.drift import DriftSettings
from edge_agent.control.tuning.observations import Observation
from edge_agent.control.tuning.trial import TrialSettings

__all__ = ["Phase", "TunerSettings", "TunerState"]


class Phase(enum.StrEnum):
    """What the traffic is used for."""

    TRYING = "trying"
    """A trial of a point is running."""
    WAITING = "waiting"
    """For the proposer, at the best point known."""
    EXPLOITING = "exploiting"
    """The search is over, its result is in use."""


@dataclass(frozen=True, slots=True)
class TunerSettings:
    """How much is measured."""

    trial: TrialSettings = field(default_factory=TrialSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    num_evaluations: int = 16
    """Trials of a search."""
    num_confirmations: int = 3
    """So many of them, the last, measure the best points again."""
    num_settling_commits: int = 1
    """Commits left out after a change: their drafts were made before it."""
    max_interval_s: float = 10.0
    """A commit that took longer was held up by something that no parameter changes."""


@dataclass(frozen=True, slots=True)
class TunerState:
    """What outlives a process; see `store.TuningStore`."""

    observations: tuple[Observation, ...] = ()
    """Of the current search, oldest first."""
    best: PolicyParameters | None = None
    """The result of the search; None: not finished."""
    baseline_ms: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    """Cost of `best` as measured after the search."""
    num_uncounted: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of an unfinished search's `observations`, those made while waiting for a suggestion: no trials."""
    last_best: PolicyParameters | None = None
    """The result of the search before, as long as the current one has none."""
