"""An answer as it comes in: chunks hold deltas, and deltas add up to blocks (thoughts, text, calls). Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError

__all__ = [
    "AnswerState",
    "Block",
    "BlockEvent",
    "BlockKind",
    "BlockTracker",
    "Closed",
    "Delta",
    "Finish",
    "Grew",
    "Opened",
    "ReasoningDelta",
    "Stats",
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
    """OpenAI's reason why the answer ended; `stop` is the stop string that ended it, where known."""

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
class Stats:
    """The extension object `pipesd`: how the answer was made."""

    values: Mapping[str, Any]


Delta = TextDelta | ReasoningDelta | ToolCallDelta | Finish | TokenCounts | Stats


def read_chunk(chunk: Mapping[str, Any]) -> Iterator[Delta]:
    """What `chunk` adds, in the order in which a model writes: thoughts, text, tool calls."""
    for choice in chunk.get("choices") or ():
        yield from _read_delta(choice.get("delta") or {"content": choice.get("text")})
        if (reason := choice.get("finish_reason")) is not None:
            stop = choice.get("stop_reason")
            yield Finish(reason, stop if isinstance(stop, str) else None)
    if usage := chunk.get("usage"):
        yield _counts(usage)
    if stats := chunk.get("pipesd"):
        yield Stats(stats)


def chunk_of_whole(body: Mapping[str, Any]) -> Json:
    """A `chat.completion` body as the one chunk that a stream of it could have been."""
    choices = [
        {**choice, "delta": _delta_of_message(choice["message"])} if "message" in choice else choice
        for choice in body.get("choices") or ()
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


class BlockKind(enum.StrEnum):
    """What a block holds."""

    REASONING = "reasoning"
    TEXT = "text"
    TOOL_CALL = "tool_call"


@dataclass(slots=True)
class Block:
    """Block number `index` of an answer. `text` of a tool call is its arguments, JSON text."""

    index: int
    kind: BlockKind
    name: str = ""
    call_id: str = ""
    text: str = ""
    tool_index: int | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Opened:
    """`block` begins, still empty."""

    block: Block


@dataclass(frozen=True, slots=True)
class Grew:
    """`text`, not empty, was appended to `block`."""

    block: Block
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """`block` is complete."""

    block: Block


BlockEvent = Opened | Grew | Closed


class BlockTracker:
    """Turns deltas into block events. The final `blocks` do not depend on how the deltas were cut.

    `new_id` makes an id for a tool call that came without one.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.blocks: list[Block] = []
        self._new_id = new_id
        self._open: Block | None = None

    def feed(self, delta: Delta) -> Iterator[BlockEvent]:
        """Add `delta`; one that belongs to no block is ignored.

        Raises `ApiError` (502) if `delta` continues a tool call after another one has begun: what was sent
        on cannot be taken back.
        """
        match delta:
            case ReasoningDelta(text):
                yield from self._grow(BlockKind.REASONING, text)
            case TextDelta(text):
                yield from self._grow(BlockKind.TEXT, text)
            case ToolCallDelta():
                yield from self._call(delta)

    def close(self) -> Iterator[BlockEvent]:
        """The answer has ended."""
        if self._open is not None:
            block, self._open = self._open, None
            yield Closed(block)

    def _grow(self, kind: BlockKind, text: str) -> Iterator[BlockEvent]:
        if not text:
            return
        if self._open is None or self._open.kind is not kind:
            yield from self._start(Block(len(self.blocks), kind))
        yield from self._append(text)

    def _call(self, delta: ToolCallDelta) -> Iterator[BlockEvent]:
        if self._open is None or self._open.tool_index != delta.index:
            if any(block.tool_index == delta.index for block in self.blocks):
                raise ApiError(
                    502, "The server interleaved its tool calls.", kind="server_error", code="bad_tool_calls"
                )
            call_id = delta.call_id or self._new_id()
            block = Block(len(self.blocks), BlockKind.TOOL_CALL, delta.name or "", call_id)
            block.tool_index = delta.index
            yield from self._start(block)
        if delta.arguments:
            yield from self._append(delta.arguments)

    def _start(self, block: Block) -> Iterator[BlockEvent]:
        yield from self.close()
        self.blocks.append(block)
        self._open = block
        yield Opened(block)

    def _append(self, text: str) -> Iterator[BlockEvent]:
        assert self._open is not None
        self._open.text += text
        yield Grew(self._open, text)


PROVENANCE = "provenance"
"""Says where a chunk's text comes from. It is not collected: for a whole answer it would repeat the text."""


class AnswerState:
    """Turns chunks into block events. `finish` is None until the model has ended.

    A closing brace of a tool call and the reason it ended with may come in one chunk or in two, so
    nothing here depends on where chunks are cut.
    """

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self.tracker = BlockTracker(new_call_id)
        self.finish: Finish | None = None
        self.counts = TokenCounts()
        self.stats: dict[str, Any] = {}

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[BlockEvent]:
        """Raises `ApiError` as `BlockTracker.feed`."""
        for delta in read_chunk(chunk):
            match delta:
                case Finish():
                    self.finish = delta
                case TokenCounts():
                    self.counts = delta
                case Stats(values):
                    self.stats |= {name: value for name, value in values.items() if name != PROVENANCE}
                case _:
                    yield from self.tracker.feed(delta)

    def close(self) -> Iterator[BlockEvent]:
        """No more chunks will come."""
        yield from self.tracker.close()

    @property
    def finish_reason(self) -> str:
        """OpenAI's finish reason; a stream that ended without one counts as "stop"."""
        return "stop" if self.finish is None else self.finish.reason

    @property
    def extension(self) -> dict[str, Any]:
        """`{"pipesd": ...}` for the final object, empty if nothing is known."""
        return {"pipesd": self.stats} if self.stats else {}
