"""Chat completion chunks, taken apart into what they add to an answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openai_gateway.chat_service import Json

__all__ = [
    "Delta",
    "Figures",
    "Finish",
    "ReasoningDelta",
    "TextDelta",
    "TokenCounts",
    "ToolCallDelta",
    "chunk_of_whole",
    "read_chunk",
]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of the tool call number `index`; its first delta names it, `arguments` is JSON text in pieces."""

    index: int
    call_id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the answer ended, in OpenAI's words; `stop` is the stop string that ended it, where known."""

    reason: str
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """`num_cached` of the prompt's tokens came from the prefix cache; `num_reasoning` were thinking."""

    num_prompt: int = 0
    num_completion: int = 0
    num_cached: int = 0
    num_reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """The extension object `pipesd`: how the answer was made."""

    values: Mapping[str, Any]


Delta = TextDelta | ReasoningDelta | ToolCallDelta | Finish | TokenCounts | Figures


def read_chunk(chunk: Mapping[str, Any]) -> Iterator[Delta]:
    """What `chunk` adds, in the order in which a model writes: thoughts, text, tool calls."""
    for choice in chunk.get("choices") or ():
        yield from _read_delta(choice.get("delta") or {})
        if (reason := choice.get("finish_reason")) is not None:
            stop = choice.get("stop_reason")
            yield Finish(reason, stop if isinstance(stop, str) else None)
    if usage := chunk.get("usage"):
        yield _counts(usage)
    if figures := chunk.get("pipesd"):
        yield Figures(figures)


def chunk_of_whole(body: Mapping[str, Any]) -> Json:
    """A `chat.completion` body as the one chunk that a stream of it could have been."""
    choices = [
        {**choice, "delta": _delta_of_message(choice["message"])} for choice in body.get("choices") or ()
    ]
    return {**body, "object": "chat.completion.chunk", "choices": choices}


def _read_delta(delta: Mapping[str, Any]) -> Iterator[Delta]:
    # Servers send the same thoughts under both names.
    if reasoning := delta.get("reasoning") or delta.get("reasoning_content"):
        yield ReasoningDelta(reasoning)
    if text := delta.get("content") or delta.get("refusal"):
        yield TextDelta(text)
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        yield ToolCallDelta(
            call.get("index", 0),
            call.get("id") or None,
            function.get("name") or None,
            function.get("arguments") or "",
        )


def _delta_of_message(message: Mapping[str, Any]) -> Json:
    calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls") or ())]
    return {**message, "tool_calls": calls}


def _counts(usage: Mapping[str, Any]) -> TokenCounts:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return TokenCounts(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        prompt.get("cached_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
    )
