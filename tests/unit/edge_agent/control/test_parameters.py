"""The parameters that an agent gives its sessions."""

from pathlib import Path

import pytest

from edge_agent.api import SessionMode
from edge_agent.control import EnvironmentSnapshot, FixedParameters, PolicyParameters
from edge_agent.control.tuning.registry import Autotuner, TunedParameters
from edge_agent.control.tuning.store import LinkClass, TuningKey, TuningStore

BASE = PolicyParameters(0.3, 0.35, 16, 500, 8)
NEAR, FAR = EnvironmentSnapshot(rtt_s=0.001), EnvironmentSnapshot(rtt_s=0.2)


def tuned(folder: Path, *, installed: bool, pass_weight_ms: float = 0.0) -> TunedParameters:
    return TunedParameters(
        BASE,
        "draft",
        "target",
        pass_weight_ms,
        store=TuningStore(folder),
        find_spec=lambda name: object() if installed else None,
    )


def test_fixed_parameters_are_the_settings() -> None:
    """Every policy, mode and link gets the same."""
    fixed = FixedParameters(BASE)
    assert fixed.for_session("adaptive", SessionMode.LATENCY, FAR).parameters == BASE
    fixed.close()


def test_each_mode_and_link_class_has_its_own_tuner(tmp_path: Path) -> None:
    """What is good on loopback says nothing about a far link or another mode."""
    parameters = tuned(tmp_path, installed=True)
    near = parameters.for_session("adaptive", SessionMode.OFFLOAD, NEAR)
    assert isinstance(near, Autotuner)
    assert parameters.for_session("adaptive", SessionMode.OFFLOAD, NEAR) is near
    assert parameters.for_session("adaptive", SessionMode.OFFLOAD, FAR) is not near
    assert parameters.for_session("adaptive", SessionMode.LATENCY, NEAR) is not near
    parameters.close()


def test_nothing_is_tuned_before_the_round_trip_is_known(tmp_path: Path) -> None:
    """It would be filed under loopback, wherever the server is."""
    source = tuned(tmp_path, installed=True).for_session(
        "adaptive", SessionMode.OFFLOAD, EnvironmentSnapshot()
    )
    assert isinstance(source, FixedParameters)


def test_baselines_and_missing_botorch_keep_the_settings(tmp_path: Path) -> None:
    """The literature's policies are not tuned; without BoTorch nothing is."""
    assert (
        tuned(tmp_path, installed=True).for_session("vanilla", SessionMode.OFFLOAD, NEAR).parameters == BASE
    )
    assert (
        tuned(tmp_path, installed=False).for_session("adaptive", SessionMode.OFFLOAD, NEAR).parameters == BASE
    )


def test_lambda_has_results_of_its_own(tmp_path: Path) -> None:
    """What is cheapest for the server need not be fastest for the user."""
    fast = tuned(tmp_path, installed=True).for_session("adaptive", SessionMode.OFFLOAD, NEAR)
    cheap = tuned(tmp_path, installed=True, pass_weight_ms=40.0)
    source = cheap.for_session("adaptive", SessionMode.OFFLOAD, NEAR)
    assert source is not fast
    assert isinstance(source, Autotuner)
    for _ in range(40):
        source.observe(4, 0.04, 2)
    cheap.close()
    state = TuningStore(tmp_path).load(
        TuningKey("draft", "target", LinkClass.LOOPBACK, SessionMode.OFFLOAD, pass_weight_ms=40.0)
    )
    assert state is not None
    assert state.observations[0].cost_ms == pytest.approx(10.0 + 20.0)
