"""Limits beyond the model's context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from openai_gateway.chat_service import ChatService, Json, StreamedAnswer, WholeAnswer
from openai_gateway.errors import ApiError
from openai_gateway.routing.options import SessionOptions

__all__ = ["FittingService"]

T = TypeVar("T")

_LIMITS = ("max_tokens", "max_completion_tokens")
_TOO_LONG = ("context_length_exceeded", None)
"""The gateway's own code, and vLLM's, which says no more than the parameter."""


class FittingService:
    """`service`, asked once more without a limit that exceeds the context. Implements `ChatService`.

    For APIs that take any limit and end the answer at the context (Anthropic's and Ollama's): agents ask
    for far more than they need.
    """

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def whole(self, body: Mapping[str, Any], options: SessionOptions) -> WholeAnswer:
        """See `ChatService.whole`."""
        return await _fitting(body, lambda fit: self._service.whole(fit, options))

    async def stream(self, body: Mapping[str, Any], options: SessionOptions) -> StreamedAnswer:
        """See `ChatService.stream`."""
        return await _fitting(body, lambda fit: self._service.stream(fit, options))


async def _fitting(body: Mapping[str, Any], ask: Callable[[Mapping[str, Any]], Awaitable[T]]) -> T:
    try:
        return await ask(body)
    except ApiError as error:
        if not _is_beyond_context(error):
            raise
    return await ask(_without_limits(body))


def _is_beyond_context(error: ApiError) -> bool:
    return error.status == 400 and error.code in _TOO_LONG and error.param in _LIMITS


def _without_limits(body: Mapping[str, Any]) -> Json:
    return {name: value for name, value in body.items() if name not in _LIMITS}
