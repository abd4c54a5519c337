"""Limits beyond the model's context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError

__all__ = ["fitting"]

T = TypeVar("T")

_LIMITS = ("max_tokens", "max_completion_tokens")
_TOO_LONG = ("context_length_exceeded", None)
"""The gateway's own code, and vLLM's, which says no more than the parameter."""


async def fitting(chat: Json, ask: Callable[[Json], Awaitable[T]]) -> T:
    """What `ask` gives for `chat`, without its limit in tokens if that exceeds the context.

    For APIs that take any limit and end the answer at the context (Anthropic's and Ollama's): agents ask
    for far more than they need. Raises what `ask` raises for any other reason.
    """
    try:
        return await ask(chat)
    except ApiError as error:
        if not _is_beyond_context(error):
            raise
    return await ask({name: value for name, value in chat.items() if name not in _LIMITS})


def _is_beyond_context(error: ApiError) -> bool:
    return error.status == 400 and error.code in _TOO_LONG and error.param in _LIMITS
