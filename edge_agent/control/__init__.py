"""Decides for each session when to send and verify drafts, by what drafting, sending and verifying cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.confidence import CalibratedConfidence, CheckedDraft, Confidence, RawConfidence
from edge_agent.control.mixing import expected_length, takes_lookup
from edge_agent.control.modes import (
    HIGHEST_ACCEPTANCE,
    Arm,
    ArmCost,
    ModeChooser,
    Stance,
    cheapest,
    predicted_overlap,
    predicted_wait,
)
from edge_agent.control.monitor import EnvironmentMonitor, EnvironmentSnapshot, LinkEstimate
from edge_agent.control.parameters import AgentParameters, FixedParameters, SessionParameters
from edge_agent.control.policies.adaptive import AdaptivePolicy
from edge_agent.control.policies.base import ChainView, CommitOutcome, Decision, Policy, PolicyParameters
from edge_agent.control.policies.registry import DEFAULT_POLICY, POLICY_NAMES, make_policy

if TYPE_CHECKING:
    from edge_agent.control.tuning.registry import TunedParameters

__all__ = [
    "DEFAULT_POLICY",
    "HIGHEST_ACCEPTANCE",
    "POLICY_NAMES",
    "AdaptivePolicy",
    "AgentParameters",
    "Arm",
    "ArmCost",
    "BatchScheduler",
    "CalibratedConfidence",
    "ChainView",
    "CheckedDraft",
    "CommitOutcome",
    "Confidence",
    "Decision",
    "EnvironmentMonitor",
    "EnvironmentSnapshot",
    "FixedParameters",
    "LinkEstimate",
    "ModeChooser",
    "Policy",
    "PolicyParameters",
    "RawConfidence",
    "SessionParameters",
    "Stance",
    "TunedParameters",
    "cheapest",
    "expected_length",
    "make_policy",
    "predicted_overlap",
    "predicted_wait",
    "takes_lookup",
]

_MODULES = {"TunedParameters": "edge_agent.control.tuning.registry"}
"""What takes long to import, and where it is."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
