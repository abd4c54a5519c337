"""The ways to choose a policy's parameters that `pipesd bench tune` compares."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_agent.monitor import EnvironmentSnapshot
from edge_agent.policies.base import PolicyParameters
from edge_agent.tuning.autotuner import FixedParameters, ParameterSource
from edge_agent.tuning.gp_process import GpProcess
from edge_agent.tuning.proposers import GridProposer, Proposer, RandomProposer
from edge_agent.tuning.registry import make_proposer
from edge_agent.tuning.space import PAPER_THRESHOLDS, SearchSpace, dimensions_for
from edge_agent.tuning.state import TunerSettings
from edge_agent.tuning.trial import TrialSettings
from edge_agent.tuning.tuner import Tuner
from openai_gateway.cli.errors import CliError
from pipesd_vllm.protocol import Mode

__all__ = ["Arm", "Search", "SwitchedSources"]


class Arm(enum.StrEnum):
    """One way to choose."""

    TUNED = "tuned"
    """Bayesian optimisation, as `--tune` does it."""
    FIXED = "fixed"
    """The thresholds near which PipeSD was found to settle on code, (0.9, 0.35)."""
    GRID = "grid"
    """A grid over R1 and R2, in random order; the best point seen."""
    RANDOM = "random"
    """Uniformly random points; the best seen."""


class SwitchedSources:
    """`ParameterSources` that give every session what was chosen last."""

    def __init__(self, base: PolicyParameters) -> None:
        self._source: ParameterSource = FixedParameters(base)

    def use(self, source: ParameterSource) -> None:
        """For the sessions that start from now on."""
        self._source = source

    def source(self, policy: str, mode: Mode, environment: EnvironmentSnapshot) -> ParameterSource:
        return self._source

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Search:
    """What every search may do: the same box, start points, number and length of trials."""

    base: PolicyParameters
    mode: Mode
    num_trials: int = 16
    trial_tokens: int = 64
    space: SearchSpace = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", SearchSpace(self.base, dimensions_for(self.mode)))

    @property
    def fixed(self) -> PolicyParameters:
        """The published thresholds; all else as set."""
        return self.space.with_thresholds(*PAPER_THRESHOLDS)

    @contextmanager
    def tuner(self, arm: Arm, seed: int) -> Iterator[Tuner]:
        """The product's state machine with the search method of `arm`. Raises `CliError` without BoTorch."""
        trial = TrialSettings(min_num_tokens=self.trial_tokens, max_num_tokens=self.trial_tokens)
        settings = TunerSettings(trial=trial, num_evaluations=self.num_trials)
        with self._proposer(arm, seed, settings) as proposer:
            yield Tuner(self.space, (self.space.nearest(self.base), self.fixed), proposer, settings)

    @contextmanager
    def _proposer(self, arm: Arm, seed: int, settings: TunerSettings) -> Iterator[Proposer]:
        num_dimensions = len(self.space.dimensions)
        match arm:
            case Arm.TUNED:
                with _bayesian(num_dimensions, seed) as proposer:
                    yield proposer
            case Arm.GRID:
                num_points = max(1, settings.num_evaluations - settings.num_confirmations - 2)
                yield GridProposer(num_points, self.space.to_unit(self.base), seed)
            case Arm.RANDOM:
                yield RandomProposer(num_dimensions, seed)
            case Arm.FIXED:
                raise ValueError("nothing is searched")


@contextmanager
def _bayesian(num_dimensions: int, seed: int) -> Iterator[Proposer]:
    process = GpProcess(num_dimensions, seed)
    try:
        with ThreadPoolExecutor(1) as executor:
            proposer = make_proposer(process, num_dimensions, executor, seed=seed)
            if proposer is None:
                raise CliError("BoTorch is not installed: `pip install 'pipesd[tune]'`, then try again.")
            yield proposer
    finally:
        process.stop()
