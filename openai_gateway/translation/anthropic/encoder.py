"""An answer as the Messages API's events, and as the message they add up to. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError
from openai_gateway.http import CURRENT
from openai_gateway.translation.answer import AnswerState, Block, BlockEvent, BlockKind, Closed, Grew, Opened

__all__ = [
    "MessageEncoder",
    "MessageFrame",
    "error_body",
]

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: ApiError) -> Json:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`; the message names what is at fault."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    detail = {"type": _TYPES.get(error.status, default), "message": _message(error)}
    current = CURRENT.get()
    return {"type": "error", "error": detail, "request_id": current and current.request_id}


_LIMIT = re.compile(r"(?:(?:context|model)\s+length|max_model_len)(?: is| of)?\s*\(?(\d+)")
_PROMPT = re.compile(
    r"(?:prompt|[Ii]nput length|request has)\D*?(\d+)\b(?! characters)|(\d+) in the (?:messages|prompt)"
)


def _message(error: ApiError) -> str:
    """Agents shorten their conversation when they read Anthropic's words for a prompt that does not fit."""
    if error.code != "context_length_exceeded":
        return error.message
    prompt, limit = _PROMPT.search(error.message), _LIMIT.search(error.message)
    if prompt is None or limit is None:
        return f"prompt is too long: {error.message}"
    return f"prompt is too long: {prompt[1] or prompt[2]} tokens > {limit[1]} maximum"


SIGNATURE = "unsigned"
"""Stands in for the signature without which Anthropic's servers would not take thoughts back."""
INVALID_JSON = "INVALID_JSON"
"""Key under which Anthropic's documentation puts a tool input that is not a JSON object."""

_DELTAS = {
    BlockKind.REASONING: ("thinking_delta", "thinking"),
    BlockKind.TEXT: ("text_delta", "text"),
    BlockKind.TOOL_CALL: ("input_json_delta", "partial_json"),
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


@dataclass(frozen=True, slots=True)
class MessageFrame:
    """The fields that the request decides. `max_tokens` is the client's limit; an answer that ended at
    another one filled the model's context."""

    message_id: str
    model: str
    shows_thinking: bool = True
    max_tokens: int | None = None


class MessageEncoder:
    """Encodes one answer. `new_id(prefix)` makes ids for tool calls that came without one."""

    def __init__(self, frame: MessageFrame, new_id: Callable[[str], str]) -> None:
        self.state = AnswerState(lambda: new_id("toolu_"))
        self._frame = frame
        self._has_started = False

    def start(self) -> Iterator[Json]:
        """Nothing: `message_start` has the prompt's tokens, which the first chunk tells."""
        yield from ()

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Json]:
        events = list(self.state.feed(chunk))
        yield from self._start()
        for event in events:
            yield from self._block_event(event)

    def end(self) -> Iterator[Json]:
        yield from self._start()
        for event in self.state.close():
            yield from self._block_event(event)
        yield {"type": "message_delta", "delta": self._stop(), "usage": self._usage(), **self.state.extension}
        yield {"type": "message_stop"}

    def fail(self, error: ApiError) -> Iterator[Json]:
        yield error_body(error)

    def final(self) -> Json:
        """The message of a complete answer."""
        content = [_whole_block(block) for block in self.state.tracker.blocks if self._shows(block)]
        return self._message(content) | self._stop() | self.state.extension

    def _start(self) -> Iterator[Json]:
        if self._has_started:
            return
        self._has_started = True
        usage = self._usage() | {"output_tokens": 0}
        message = self._message([]) | {"stop_reason": None, "stop_sequence": None, "usage": usage}
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}

    def _message(self, content: list[Json]) -> Json:
        return {
            "id": self._frame.message_id,
            "type": "message",
            "role": "assistant",
            "model": self._frame.model,
            "content": content,
            "usage": self._usage(),
        }

    def _stop(self) -> Json:
        finish = self.state.finish
        reason = _STOP_REASONS.get(self.state.finish_reason, "end_turn")
        if reason == "end_turn" and self._has_calls() and not (finish and finish.stop):
            reason = "tool_use"  # the chat API says "stop" where a tool was asked for by name
        if reason == "max_tokens" and 0 < self.state.counts.num_completion < (self._frame.max_tokens or 0):
            reason = "model_context_window_exceeded"
        stop = finish.stop if finish is not None and reason == "end_turn" else None
        return {"stop_reason": "stop_sequence" if stop is not None else reason, "stop_sequence": stop}

    def _usage(self) -> Json:
        counts = self.state.counts
        return {
            "input_tokens": counts.num_prompt - counts.num_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": counts.num_cached,
            "output_tokens": counts.num_completion,
        }

    def _has_calls(self) -> bool:
        return any(block.kind is BlockKind.TOOL_CALL for block in self.state.tracker.blocks)

    def _shows(self, block: Block) -> bool:
        return self._frame.shows_thinking or block.kind is not BlockKind.REASONING

    def _index(self, block: Block) -> int:
        """The index of `block` among the blocks that are shown."""
        return sum(self._shows(earlier) for earlier in self.state.tracker.blocks[: block.index])

    def _block_event(self, event: BlockEvent) -> Iterator[Json]:
        block = event.block
        if not self._shows(block):
            return
        index = self._index(block)
        match event:
            case Opened():
                yield {"type": "content_block_start", "index": index, "content_block": _empty_block(block)}
            case Grew(text=text):
                kind, field = _DELTAS[block.kind]
                yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: text}}
            case Closed():
                if block.kind is BlockKind.REASONING:
                    signed = {"type": "signature_delta", "signature": SIGNATURE}
                    yield {"type": "content_block_delta", "index": index, "delta": signed}
                yield {"type": "content_block_stop", "index": index}


def _empty_block(block: Block) -> Json:
    match block.kind:
        case BlockKind.REASONING:
            return {"type": "thinking", "thinking": "", "signature": ""}
        case BlockKind.TEXT:
            return {"type": "text", "text": ""}
        case BlockKind.TOOL_CALL:
            return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}


def _whole_block(block: Block) -> Json:
    match block.kind:
        case BlockKind.REASONING:
            return _empty_block(block) | {"thinking": block.text, "signature": SIGNATURE}
        case BlockKind.TEXT:
            return _empty_block(block) | {"text": block.text}
        case BlockKind.TOOL_CALL:
            return _empty_block(block) | {"input": _input(block.text)}


def _input(arguments: str) -> Json:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return {INVALID_JSON: arguments}
    return value if isinstance(value, dict) else {INVALID_JSON: arguments}
