"""An answer as Ollama's lines, and as the one object they add up to. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError
from openai_gateway.translation.answer import AnswerState, Block, BlockEvent, BlockKind, Closed, Grew

__all__ = ["ChatEncoder", "GenerateEncoder", "LineEncoder"]

_NS_PER_S = 1e9
_DONE_REASONS = {"length": "length"}
_NOTHING = re.compile(r"-?(?:0+(?:\.0*)?(?:ns|us|µs|ms|s|m|h)?)+")
"""No time, as a number or in Go's words."""


class LineEncoder:
    """Base of both endpoints' encoders. `clock` gives Unix time in seconds; the request starts now.

    Durations are measured here: up to the first piece of the answer (`prompt_eval_duration`), and from
    there to its end (`eval_duration`), in ns.
    """

    def __init__(self, model: str, clock: Callable[[], float], new_id: Callable[[str], str]) -> None:
        self.state = AnswerState(lambda: new_id("call_"))
        self._model = model
        self._clock = clock
        self._started_s = clock()
        self._first_s: float | None = None

    def start(self) -> Iterator[Json]:
        yield from ()

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Json]:
        for event in self.state.feed(chunk):
            if self._first_s is None:
                self._first_s = self._clock()
            yield from self._lines(event)

    def end(self) -> Iterator[Json]:
        for event in self.state.close():
            yield from self._lines(event)
        yield self._line({}) | self._last()

    def fail(self, error: ApiError) -> Iterator[Json]:
        yield {"error": error.message}

    def final(self) -> Json:
        """The object of a complete answer."""
        blocks = self.state.tracker.blocks
        piece: Json = {"content": _text(blocks, BlockKind.TEXT)}
        if thoughts := _text(blocks, BlockKind.REASONING):
            piece["thinking"] = thoughts
        if calls := [_call(block) for block in blocks if block.kind is BlockKind.TOOL_CALL]:
            piece["tool_calls"] = calls
        return self._line(piece) | self._last()

    def loaded(self, keep_alive: float | str | None) -> Json:
        """The answer to a request that only asks for the model to be loaded, or not to be kept."""
        reason = "unload" if _NOTHING.fullmatch(str(keep_alive)) else "load"
        return self._line({}) | {"done": True, "done_reason": reason}

    def _lines(self, event: BlockEvent) -> Iterator[Json]:
        match event:
            case Grew(block, text) if block.kind is BlockKind.TEXT:
                yield self._line({"content": text})
            case Grew(block, text) if block.kind is BlockKind.REASONING:
                yield self._line({"content": "", "thinking": text})
            case Closed(block) if block.kind is BlockKind.TOOL_CALL:
                yield self._line({"content": "", "tool_calls": [_call(block)]})

    def _line(self, piece: Json) -> Json:
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat().replace("+00:00", "Z")
        return {"model": self._model, "created_at": now, **self._body(piece), "done": False}

    def _body(self, piece: Json) -> Json:
        """`piece` (`content`, `thinking`, `tool_calls`) where the endpoint has it."""
        raise NotImplementedError

    def _last(self) -> Json:
        ended_s = self._clock()
        first_s = ended_s if self._first_s is None else self._first_s
        counts = self.state.counts
        return {
            "done": True,
            "done_reason": _DONE_REASONS.get(self.state.finish_reason, "stop"),
            "total_duration": _ns(ended_s - self._started_s),
            "load_duration": 0,
            "prompt_eval_count": counts.num_prompt,
            "prompt_eval_duration": _ns(first_s - self._started_s),
            "eval_count": counts.num_completion,
            "eval_duration": _ns(ended_s - first_s),
            **self.state.extension,
        }


class ChatEncoder(LineEncoder):
    """/api/chat."""

    def _body(self, piece: Json) -> Json:
        return {"message": {"role": "assistant", "content": "", **piece}}


class GenerateEncoder(LineEncoder):
    """/api/generate."""

    def _body(self, piece: Json) -> Json:
        more = {key: value for key, value in piece.items() if key != "content"}
        return {"response": piece.get("content", ""), **more}


def _ns(duration_s: float) -> int:
    return max(round(duration_s * _NS_PER_S), 0)


def _text(blocks: list[Block], kind: BlockKind) -> str:
    return "".join(block.text for block in blocks if block.kind is kind)


def _call(block: Block) -> Json:
    """A tool call; its arguments are an object here, and text that is none is given as `invalid_json`."""
    try:
        arguments = json.loads(block.text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"invalid_json": block.text}
    return {"id": block.call_id, "function": {"name": block.name, "arguments": arguments}}
