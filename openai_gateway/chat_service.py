"""The seam below the APIs: a request body in OpenAI's shape in, an answer in OpenAI's shape out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from openai_gateway.routing.options import SessionOptions

__all__ = ["ChatService", "Json", "StreamedAnswer", "WholeAnswer"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A `chat.completion` body (with the extensions `pipesd` and `timings`) and our response headers."""

    body: Json
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An answer that comes in pieces. Whoever holds it must call `aclose`, however it ended.

    `chunks` gives `chat.completion.chunk` bodies: first one with the role, then deltas, one with a finish
    reason, and with `stream_options.include_usage` one with `choices: []` and the usage. It raises
    `ApiError` if the answer cannot go on. `close` ends the generation, wherever it runs; idempotent.
    """

    headers: Mapping[str, str]
    chunks: AsyncIterator[Json]
    close: Callable[[], Awaitable[None]]

    async def aclose(self) -> None:
        """End the generation, if it still runs. Idempotent."""
        await self.close()


class ChatService(Protocol):
    """Answers chat requests. `body` is that of POST /v1/chat/completions, decoded; it is not changed.

    Both raise `ApiError` or `EdgeError` while nothing has been answered yet. Which of the two is
    called decides whether the answer is streamed, `body["stream"]` does not.
    """

    async def whole(self, body: Mapping[str, Any], options: SessionOptions) -> WholeAnswer:
        """The answer at once. Cancelling the call ends the generation."""
        ...

    async def stream(self, body: Mapping[str, Any], options: SessionOptions) -> StreamedAnswer:
        """Return as soon as the answer has begun, or has taken long enough to send headers first."""
        ...
