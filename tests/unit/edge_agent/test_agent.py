"""What an agent's sessions get out of its settings."""

from __future__ import annotations

from typing import Any

from edge_agent.agent import agent_parameters, policy_parameters
from edge_agent.control import FixedParameters, PolicyParameters, TunedParameters
from edge_agent.settings import EdgeSettings


def settings(**values: Any) -> EdgeSettings:
    return EdgeSettings(cloud_url="http://verifier", **values)


def test_policies_get_their_part_of_the_settings() -> None:
    """Thresholds, look-ahead, patience and window, each under its own name."""
    given = settings(
        sequence_threshold=0.31, token_threshold=0.36, max_ahead=17, patience_ms=501, max_window=9
    )
    assert policy_parameters(given) == PolicyParameters(0.31, 0.36, 17, 501, 9)


def test_only_a_known_target_is_tuned_for() -> None:
    """Results are filed by the target's name; without one, or without `tune`, the settings hold."""
    assert isinstance(agent_parameters(settings(tune=True), "draft", "target"), TunedParameters)
    assert isinstance(agent_parameters(settings(tune=True), "draft", None), FixedParameters)
    assert isinstance(agent_parameters(settings(tune=False), "draft", "target"), FixedParameters)
