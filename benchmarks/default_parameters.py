"""Our policy's parameters unless a flag says otherwise: the agent's own defaults, read where they stand."""

from __future__ import annotations

from dataclasses import fields

from edge_agent.policies.base import PolicyParameters
from edge_agent.settings import EdgeSettings

__all__ = ["DEFAULT_PARAMETERS"]

DEFAULT_PARAMETERS = PolicyParameters(
    **{field.name: EdgeSettings.model_fields[field.name].default for field in fields(PolicyParameters)}
)
