"""Fakes that ship: a drafter, a transport and a generator without model or network."""

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
