"""What an agent is put together from, made as the settings say. Opens no connection."""

from __future__ import annotations

import time
from pathlib import Path

import platformdirs

from edge_agent.control.parameter_sources import FixedSources, ParameterSources, TunedSources
from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.tuning.registry import TunerRegistry
from edge_agent.session.control_plane import ControlPlane
from edge_agent.settings import EdgeSettings
from edge_agent.tracing.recorder import FileRecorder, NullRecorder
from edge_agent.verifier.http import CloudApi
from edge_agent.verifier.transport import Connector
from edge_agent.verifier.websocket import WebSocketConnector

__all__ = ["cloud_api", "cloud_connector", "control_plane", "parameter_sources", "policy_parameters"]


def cloud_api(settings: EdgeSettings) -> CloudApi:
    """The verifier's HTTP routes; what they answer is kept in the user's cache folder."""
    cache_dir = Path(platformdirs.user_cache_dir("pipesd")) / "tokenizers"
    return CloudApi(settings.cloud_url, settings.cloud_key, settings.connect_timeout_s, cache_dir)


def cloud_connector(settings: EdgeSettings) -> Connector:
    """Makes connections to the verifier."""
    return WebSocketConnector(settings.cloud_url, settings.cloud_key, settings.connect_timeout_s)


def control_plane(settings: EdgeSettings, sources: ParameterSources) -> ControlPlane:
    """Controls by the parameters of `sources`, with a trace if the settings ask for one."""
    recorder = FileRecorder(settings.trace) if settings.trace else NullRecorder()
    return ControlPlane(sources, recorder, time.monotonic)


def parameter_sources(settings: EdgeSettings, draft: str, target: str | None) -> ParameterSources:
    """Fixed parameters, or with `tune` the autotuner's, whose results are filed by the target's name."""
    base = policy_parameters(settings)
    if not settings.tune or target is None:
        return FixedSources(base)
    return TunedSources(TunerRegistry(), base, draft, target, settings.pass_weight_ms)


def policy_parameters(settings: EdgeSettings) -> PolicyParameters:
    """The part of the settings that policies work with."""
    return PolicyParameters(
        sequence_threshold=settings.sequence_threshold,
        token_threshold=settings.token_threshold,
        max_ahead=settings.max_ahead,
        patience_ms=settings.patience_ms,
        max_window=settings.max_window,
    )
