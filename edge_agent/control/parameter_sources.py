"""Which parameters a session works with: the settings', or those of the autotuner for its link and mode."""

from __future__ import annotations

from typing import Protocol

from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.policies.registry import DEFAULT_POLICY
from edge_agent.control.tuning.registry import FixedParameters, ParameterSource, TunerRegistry
from edge_agent.control.tuning.store import TuningKey, link_class
from pipesd_vllm.wire import Mode

__all__ = ["FixedSources", "ParameterSources", "TunedSources"]


class ParameterSources(Protocol):
    """Shared by all sessions of an agent."""

    def source(self, policy: str, mode: Mode, environment: EnvironmentSnapshot) -> ParameterSource:
        """Where a session that starts now gets its parameters from."""
        ...

    def close(self) -> None:
        """Keep what was learnt. Idempotent."""
        ...


class FixedSources:
    """The same parameters for every session."""

    def __init__(self, parameters: PolicyParameters) -> None:
        self._source = FixedParameters(parameters)

    def source(self, policy: str, mode: Mode, environment: EnvironmentSnapshot) -> ParameterSource:
        return self._source

    def close(self) -> None:
        pass


class TunedSources:
    """An autotuner for each mode and link class of one pair of models; for our own policy alone.

    Nothing is tuned before the round trip is known: it would be filed under the wrong class of link.
    The baselines of the literature keep `base`: they are there to be compared with. `pass_weight_ms`: see
    `tuning.trial.TrialSettings`.
    """

    def __init__(
        self,
        registry: TunerRegistry,
        base: PolicyParameters,
        draft: str,
        target: str,
        pass_weight_ms: float = 0.0,
    ) -> None:
        self._registry = registry
        self._base = base
        self._draft = draft
        self._target = target
        self._pass_weight_ms = pass_weight_ms

    def source(self, policy: str, mode: Mode, environment: EnvironmentSnapshot) -> ParameterSource:
        if policy != DEFAULT_POLICY or environment.rtt_s is None:
            return FixedParameters(self._base)
        link = link_class(environment.rtt_s * 1e3)
        key = TuningKey(self._draft, self._target, link, mode, self._pass_weight_ms)
        return self._registry.get(key, self._base)

    def close(self) -> None:
        self._registry.close()
