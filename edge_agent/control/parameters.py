"""Which policy parameters a session works with: fixed ones, or those that an autotuner varies."""

from __future__ import annotations

from typing import Protocol

from edge_agent.api import SessionMode
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.policies.base import PolicyParameters

__all__ = ["AgentParameters", "FixedParameters", "SessionParameters"]


class SessionParameters(Protocol):
    """Parameters of the sessions of one policy, mode and link. Nothing here blocks or raises."""

    @property
    def parameters(self) -> PolicyParameters:
        """What sessions should work with now."""
        ...

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """Take one commit, see `Tuner.observe`; True: `parameters` changed."""
        ...


class AgentParameters(Protocol):
    """Shared by all sessions of an agent."""

    def for_session(
        self, policy: str, mode: SessionMode, environment: EnvironmentSnapshot
    ) -> SessionParameters:
        """Parameters for a session that starts now."""
        ...

    def close(self) -> None:
        """Keep what was learnt. Idempotent."""
        ...


class FixedParameters:
    """The same `parameters` for every session; both of the protocols above."""

    def __init__(self, parameters: PolicyParameters) -> None:
        self.parameters = parameters

    def for_session(
        self, policy: str, mode: SessionMode, environment: EnvironmentSnapshot
    ) -> SessionParameters:
        return self

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        """Changes nothing."""
        return False

    def close(self) -> None:
        """There is nothing to keep."""
