"""Where sessions get their parameters from."""

from pathlib import Path

import pytest

from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.parameter_sources import FixedSources, TunedSources
from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.registry import Autotuner, FixedParameters, TunerRegistry
from edge_agent.control.tuning.store import LinkClass, TuningKey, TuningStore
from pipesd_vllm.wire import Mode

BASE = PolicyParameters(0.3, 0.35, 16, 500, 8)
NEAR, FAR = EnvironmentSnapshot(rtt_s=0.001), EnvironmentSnapshot(rtt_s=0.2)


def tuned(folder: Path, *, installed: bool) -> TunedSources:
    registry = TunerRegistry(
        store=TuningStore(folder), find_spec=lambda name: object() if installed else None
    )
    return TunedSources(registry, BASE, "draft", "target")


def test_fixed_parameters_are_the_settings() -> None:
    """Every policy, mode and link gets the same."""
    sources = FixedSources(BASE)
    assert sources.source("adaptive", Mode.LATENCY, FAR).parameters == BASE
    sources.close()


def test_each_mode_and_link_class_has_its_own_tuner(tmp_path: Path) -> None:
    """What is good on loopback says nothing about a far link or another mode."""
    sources = tuned(tmp_path, installed=True)
    near = sources.source("adaptive", Mode.OFFLOAD, NEAR)
    assert isinstance(near, Autotuner)
    assert sources.source("adaptive", Mode.OFFLOAD, NEAR) is near
    assert sources.source("adaptive", Mode.OFFLOAD, FAR) is not near
    assert sources.source("adaptive", Mode.LATENCY, NEAR) is not near
    sources.close()


def test_nothing_is_tuned_before_the_round_trip_is_known(tmp_path: Path) -> None:
    """It would be filed under loopback, wherever the server is."""
    source = tuned(tmp_path, installed=True).source("adaptive", Mode.OFFLOAD, EnvironmentSnapshot())
    assert isinstance(source, FixedParameters)


def test_baselines_and_missing_botorch_keep_the_settings(tmp_path: Path) -> None:
    """The literature's policies are not tuned; without BoTorch nothing is."""
    assert tuned(tmp_path, installed=True).source("vanilla", Mode.OFFLOAD, NEAR).parameters == BASE
    assert tuned(tmp_path, installed=False).source("adaptive", Mode.OFFLOAD, NEAR).parameters == BASE


def test_lambda_has_results_of_its_own(tmp_path: Path) -> None:
    """What is cheapest for the server need not be fastest for the user."""
    registry = TunerRegistry(store=TuningStore(tmp_path), find_spec=lambda _: object())
    fast = TunedSources(registry, BASE, "draft", "target").source("adaptive", Mode.OFFLOAD, NEAR)
    cheap = TunedSources(registry, BASE, "draft", "target", pass_weight_ms=40.0)
    source = cheap.source("adaptive", Mode.OFFLOAD, NEAR)
    assert source is not fast
    assert isinstance(source, Autotuner)
    for _ in range(40):
        source.observe(4, 0.04, 2)
    registry.close()
    state = TuningStore(tmp_path).load(
        TuningKey("draft", "target", LinkClass.LOOPBACK, Mode.OFFLOAD, pass_weight_ms=40.0)
    )
    assert state is not None
    assert state.observations[0].cost_ms == pytest.approx(10.0 + 20.0)
