"""A `ChatService` that follows a script, and a prompt counter: for tests of what is built on top of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai_gateway.chat_service import Answer, Json, SessionOptions, StreamedAnswer, WholeAnswer

__all__ = ["ChatScript", "FakeChatService", "FakePromptCounter", "chat_chunk"]

HEADERS = {"x-pipesd-route": "collaborative; reason=default", "x-request-id": "chatcmpl-fake"}


def chat_chunk(delta: Json, finish_reason: str | None = None, **more: Any) -> Json:
    """A `chat.completion.chunk` with one choice."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "org/target",
        "choices": [choice],
        **more,
    }


@dataclass(frozen=True)
class ChatScript:
    """What the service answers.

    `message` and `deltas` are the assistant's, whole and streamed (the role chunk is added). `error`
    is raised instead of an answer, or with `error_after` in a stream after so many deltas. `hang`:
    wait for ever before anything is answered.
    """

    message: Mapping[str, Any] = field(default_factory=lambda: {"content": "hello"})
    deltas: Sequence[Mapping[str, Any]] = ({"content": "hel"}, {"content": "lo"})
    finish_reason: str = "stop"
    prompt_tokens: int = 3
    completion_tokens: int = 2
    headers: Mapping[str, str] = field(default_factory=lambda: dict(HEADERS))
    error: Exception | None = None
    error_after: int | None = None
    hang: bool = False

    @property
    def usage(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class FakeChatService:
    """Records what it was asked in `asked`; `num_closed` counts streams that were closed."""

    def __init__(self, script: ChatScript | None = None) -> None:
        self.script = script or ChatScript()
        self.asked: list[tuple[Json, SessionOptions]] = []
        self.num_closed = 0

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        await self._begin(body, options)
        script = self.script
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamedAnswer(script.headers, self._chunks(usage), self._close)
        message = {"role": "assistant", "content": None, "refusal": None, **script.message}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": script.finish_reason}
        answer = chat_chunk({}) | {"object": "chat.completion", "choices": [choice], "usage": script.usage}
        return WholeAnswer(answer, script.headers)

    async def _begin(self, body: Mapping[str, Any], options: SessionOptions) -> None:
        self.asked.append((dict(body), options))
        if self.script.hang:
            await asyncio.Event().wait()
        if self.script.error is not None and self.script.error_after is None:
            raise self.script.error

    async def _chunks(self, include_usage: bool) -> AsyncIterator[Json]:
        script = self.script
        yield chat_chunk({"role": "assistant", "content": ""})
        for index, delta in enumerate(script.deltas):
            self._fail_after(index)
            yield chat_chunk(dict(delta))
        self._fail_after(len(script.deltas))
        yield chat_chunk({}, script.finish_reason)
        if include_usage:
            yield chat_chunk({}) | {"choices": [], "usage": script.usage}

    def _fail_after(self, num_deltas: int) -> None:
        if self.script.error is not None and self.script.error_after == num_deltas:
            raise self.script.error

    async def _close(self) -> None:
        self.num_closed += 1


class FakePromptCounter:
    """Always `num_tokens`; records what it was asked in `asked`."""

    def __init__(self, num_tokens: int = 7) -> None:
        self.num_tokens = num_tokens
        self.asked: list[Json] = []

    async def count(self, body: Mapping[str, Any]) -> int:
        self.asked.append(dict(body))
        return self.num_tokens
