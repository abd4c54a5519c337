"""Fakes for tests: a chat service that answers from a script, and a prompt counter."""

from openai_gateway.testing.chat_service import ChatScript, FakeChatService, FakePromptCounter, chat_chunk

__all__ = [
    "ChatScript",
    "FakeChatService",
    "FakePromptCounter",
    "chat_chunk",
]
