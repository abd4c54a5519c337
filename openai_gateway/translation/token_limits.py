"""Limits in tokens that exceed the model's context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai_gateway.chat_service import Answer, ChatService, Json, SessionOptions
from openai_gateway.errors import ApiError

__all__ = ["LenientLimits"]

_LIMITS = ("max_tokens", "max_completion_tokens")
_TOO_LONG = ("context_length_exceeded", None)
"""Error codes: the gateway's own, and vLLM's, which is empty (vLLM names only the parameter)."""


class LenientLimits:
    """Repeats a request without its limit if the limit exceeds the context. Implements `ChatService`.

    For APIs that accept any limit and end the answer where the context ends (Anthropic's and Ollama's):
    agents ask for far more tokens than they need.
    """

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """See `ChatService.answer`."""
        try:
            return await self._service.answer(body, options)
        except ApiError as error:
            if not _is_beyond_context(error):
                raise
        return await self._service.answer(_without_limits(body), options)


def _is_beyond_context(error: ApiError) -> bool:
    return error.status == 400 and error.code in _TOO_LONG and error.param in _LIMITS


def _without_limits(body: Mapping[str, Any]) -> Json:
    return {name: value for name, value in body.items() if name not in _LIMITS}
