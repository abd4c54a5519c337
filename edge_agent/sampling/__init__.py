"""Picks draft tokens as the target will pick its own: with the same parameters and the same noise."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edge_agent.sampling.greedy import GreedyPicker, most_likely
from edge_agent.sampling.picker import DraftToken, TokenMask, TokenPicker
from edge_agent.sampling.sampled import SampledPicker

if TYPE_CHECKING:
    from edge_agent.sampling.pickers import Pickers

__all__ = [
    "DraftToken",
    "GreedyPicker",
    "Pickers",
    "SampledPicker",
    "TokenMask",
    "TokenPicker",
    "most_likely",
]

_MODULES = {"Pickers": "edge_agent.sampling.pickers"}
"""What takes long to import, and where it is."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
