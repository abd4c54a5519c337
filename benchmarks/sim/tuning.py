"""The product's autotuner on virtual time: it searches inline, by a Sobol sequence in place of BoTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.sim.engine import InlineExecutor
from edge_agent.control import PolicyParameters, TunedParameters
from edge_agent.control.tuning.search import Evaluation, SobolProposer, Suggestion
from edge_agent.control.tuning.store import TuningStore

__all__ = ["tuned_parameters"]


class _SobolSolver:
    """A `StoppableSolver` that fills the space evenly."""

    def __init__(self, num_dimensions: int, seed: int) -> None:
        self._proposer = SobolProposer(num_dimensions, seed)

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        return self._proposer.suggest(evaluations)

    def stop(self) -> None:
        """Holds nothing."""


def tuned_parameters(base: PolicyParameters, target: str, folder: Path) -> TunedParameters:
    """What an edge with the setting `tune` works with; results are kept in `folder`."""
    return TunedParameters(
        base,
        "fake",
        target,
        store=TuningStore(folder),
        find_spec=lambda _: True,
        executor=InlineExecutor(),
        new_solver=_SobolSolver,
    )
