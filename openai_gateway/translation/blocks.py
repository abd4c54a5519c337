"""An answer as a sequence of blocks (thoughts, text, tool calls), of which one is open at a time. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from openai_gateway.errors import ApiError
from openai_gateway.translation.deltas import Delta, ReasoningDelta, TextDelta, ToolCallDelta

__all__ = ["Block", "BlockEvent", "BlockKind", "BlockTracker", "Closed", "Grew", "Opened"]


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
    """Deltas in, block events out; however the deltas are cut, the `blocks` in the end are the same.

    `new_id` makes an id for a tool call that came without one.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.blocks: list[Block] = []
        self._new_id = new_id
        self._open: Block | None = None

    def feed(self, delta: Delta) -> Iterator[BlockEvent]:
        """Deltas that are no part of a block are ignored.

        Raises `ApiError` (502) for more of a tool call that another one has followed: nothing that was
        sent on could be taken back.
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
                    502, "The server's tool calls came mixed up.", kind="server_error", code="bad_tool_calls"
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
