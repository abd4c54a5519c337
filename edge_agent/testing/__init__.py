"""Fakes that ship: a drafter, a transport and a generator without model or network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.testing.drafter import FakeDrafter
    from edge_agent.testing.generator import (
        CHAT_ML,
        FakeForwardedAnswer,
        FakeGenerator,
        GenerationRecord,
        Script,
        fake_tokenizer_bundle,
    )
    from edge_agent.testing.transport import FakeConnector, FakeTransport, fake_welcome

__all__ = [
    "CHAT_ML",
    "FakeConnector",
    "FakeDrafter",
    "FakeForwardedAnswer",
    "FakeGenerator",
    "FakeTransport",
    "GenerationRecord",
    "Script",
    "fake_tokenizer_bundle",
    "fake_welcome",
]

_MODULES = {
    "FakeDrafter": "edge_agent.testing.drafter",
    "CHAT_ML": "edge_agent.testing.generator",
    "FakeForwardedAnswer": "edge_agent.testing.generator",
    "FakeGenerator": "edge_agent.testing.generator",
    "GenerationRecord": "edge_agent.testing.generator",
    "Script": "edge_agent.testing.generator",
    "fake_tokenizer_bundle": "edge_agent.testing.generator",
    "FakeConnector": "edge_agent.testing.transport",
    "FakeTransport": "edge_agent.testing.transport",
    "fake_welcome": "edge_agent.testing.transport",
}
"""What takes long to import, and where it is."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
