"""What is added to the server's own bodies: what clients expect of every server, and our extensions. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edge_agent.generation import GenerationStats
from openai_gateway.figures import extensions
from openai_gateway.reasoning import both_names

__all__ = ["CloudChunks", "complete_whole"]

Json = dict[str, Any]


def complete_whole(body: Json, stats: GenerationStats) -> Json:
    """A whole answer with both names of reasoning and our extensions; `stats` gets its token counts."""
    for choice in _choices(body):
        _both_names(choice.get("message"))
    return {**body, **extensions(stats, _count(body.get("usage"), stats))}


class CloudChunks:
    """The chunks of one stream, in order. `clock` as of `stats.started_s`."""

    def __init__(self, stats: GenerationStats, clock: Callable[[], float], *, include_usage: bool) -> None:
        self._stats = stats
        self._clock = clock
        self._include_usage = include_usage
        self._calls: set[tuple[int, int]] = set()
        self._num_texts = 0

    def wanted(self, chunk: Mapping[str, Any]) -> bool:
        """False for a usage chunk that nobody asked for: some clients trip on empty choices."""
        return self._include_usage or bool(chunk.get("choices"))

    def complete(self, chunk: Json) -> Json:
        """The chunk as the client gets it; those that end a choice or the answer carry the extensions."""
        ends = not chunk.get("choices")
        for choice in _choices(chunk):
            self._complete_choice(choice)
            ends = ends or choice.get("finish_reason") is not None
        num_prompt_tokens = _count(chunk.get("usage"), self._stats)
        if not self._include_usage:
            chunk.pop("usage", None)
        return {**chunk, **extensions(self._stats, num_prompt_tokens)} if ends else chunk

    def _complete_choice(self, choice: Json) -> None:
        delta = choice.get("delta")
        if choice.get("text") or _says_something(delta):
            self._stats.last_token_s = self._clock()
            if self._stats.first_token_s is None:
                self._stats.first_token_s = self._stats.last_token_s
        _both_names(delta)
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        for position, call in enumerate(calls or ()):
            self._complete_call(int(choice.get("index", 0)), position, call)

    def _complete_call(self, choice: int, position: int, call: Json) -> None:
        """Every delta of a call has its `index`, the first also `id`, `type` and a name."""
        key = (choice, call.setdefault("index", position))
        if key in self._calls:
            return
        self._calls.add(key)
        call["id"] = call.get("id") or f"call_{uuid.uuid4().hex}"
        call["type"] = call.get("type") or "function"
        function = call.setdefault("function", {})
        function["name"] = function.get("name") or ""
        function.setdefault("arguments", "")


def _choices(body: Mapping[str, Any]) -> list[Json]:
    return [choice for choice in body.get("choices") or () if isinstance(choice, dict)]


def _says_something(delta: object) -> bool:
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def _both_names(message: object) -> None:
    """Reasoning is `reasoning` to some clients and `reasoning_content` to others."""
    if not isinstance(message, dict):
        return
    message |= both_names(message.get("reasoning") or message.get("reasoning_content") or "")


def _count(usage: object, stats: GenerationStats) -> int | None:
    """Book the server's token counts; returns those of the prompt."""
    if not isinstance(usage, dict):
        return None
    stats.completion_tokens = usage.get("completion_tokens") or stats.completion_tokens
    return usage.get("prompt_tokens")
