"""Limits beyond the model's context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError

__all__ = ["fitting"]

T = TypeVar("T")

_LIMIT = "max_tokens"


async def fitting(chat: Json, ask: Callable[[Json], Awaitable[T]]) -> tuple[T, bool]:
    """What `ask` gives for `chat`, and whether its `max_tokens` had to go because it exceeds the context.

    For APIs that take any limit and end the answer at the context (Anthropic's and Ollama's): agents ask
    for far more than they need. Raises what `ask` raises for any other reason.
    """
    try:
        return await ask(chat), False
    except ApiError as error:
        if error.code != "context_length_exceeded" or error.param != _LIMIT:
            raise
    return await ask({name: value for name, value in chat.items() if name != _LIMIT}), True
