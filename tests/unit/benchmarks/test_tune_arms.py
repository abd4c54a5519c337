"""The searches that `bench tune` compares."""

import pytest

from benchmarks.tune_arms import Arm, Search, SwitchedSources
from edge_agent.monitor import EnvironmentSnapshot
from edge_agent.policies.base import PolicyParameters
from edge_agent.tuning.autotuner import FixedParameters
from edge_agent.tuning.state import Phase
from edge_agent.tuning.tuner import Tuner
from pipesd_vllm.protocol import Mode

BASE = PolicyParameters(0.3, 0.35, 16, 500, 8)
NUM_TRIALS = 9


def run(tuner: Tuner, most_commits: int = 5000) -> list[PolicyParameters]:
    """Traffic that costs less the nearer R1 is to 0.6; gives every point tried."""
    points: list[PolicyParameters] = []
    for _ in range(most_commits):
        if tuner.phase is Phase.EXPLOITING:
            return points
        if tuner.parameters not in points:
            points.append(tuner.parameters)
        tuner.observe(4, 0.1 + abs(tuner.parameters.sequence_threshold - 0.6), 1)
    raise AssertionError("the search never ended")


@pytest.mark.parametrize("arm", [Arm.GRID, Arm.RANDOM])
def test_each_search_has_its_trials_and_ends_at_the_best_point_it_saw(arm: Arm) -> None:
    """What is in use afterwards is the best of what was tried, not the last."""
    with Search(BASE, Mode.OFFLOAD, NUM_TRIALS, 16).tuner(arm, seed=1) as tuner:
        points = run(tuner)
        assert len(tuner.state.observations) == NUM_TRIALS
        assert tuner.parameters == min(points, key=lambda p: abs(p.sequence_threshold - 0.6))


def test_the_grid_is_over_both_thresholds_alone() -> None:
    """PipeSD's comparison; look-ahead and patience stay as set."""
    search = Search(BASE, Mode.BALANCED, NUM_TRIALS, 16)
    with search.tuner(Arm.GRID, seed=1) as tuner:
        points = run(tuner)
    assert {(p.max_ahead, p.patience_ms) for p in points} == {(BASE.max_ahead, BASE.patience_ms)}
    assert len({p.sequence_threshold for p in points}) >= 2


def test_bayesian_optimisation_is_the_products_own() -> None:
    """A short search through process and BoTorch."""
    pytest.importorskip("botorch")
    with Search(BASE, Mode.OFFLOAD, NUM_TRIALS, 16).tuner(Arm.TUNED, seed=1) as tuner:
        while tuner.phase is not Phase.EXPLOITING:
            tuner.observe(4, 0.1 + abs(tuner.parameters.sequence_threshold - 0.6), 1)
        assert len(tuner.state.observations) >= NUM_TRIALS


def test_the_fixed_parameters_are_the_papers() -> None:
    """(0.9, 0.35), and nothing is searched for them."""
    search = Search(BASE, Mode.BALANCED)
    assert (search.fixed.sequence_threshold, search.fixed.token_threshold) == (0.9, 0.35)
    with pytest.raises(ValueError, match="nothing is searched"), search.tuner(Arm.FIXED, 0):
        pass


def test_sessions_get_what_was_chosen_last() -> None:
    """Whatever their policy, mode and link."""
    sources = SwitchedSources(BASE)
    first = sources.source("adaptive", Mode.OFFLOAD, EnvironmentSnapshot())
    chosen = FixedParameters(PolicyParameters(0.5, 0.5, 4, 100, 8))
    sources.use(chosen)
    assert first.parameters == BASE
    assert sources.source("adaptive", Mode.LATENCY, EnvironmentSnapshot()) is chosen
