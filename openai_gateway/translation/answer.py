"""What is known of an answer while it comes in: its blocks, and how it ended. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from openai_gateway.translation.blocks import BlockEvent, BlockTracker
from openai_gateway.translation.deltas import Figures, Finish, TokenCounts, read_chunk

__all__ = ["AnswerState"]

PROVENANCE = "provenance"
"""Says of one chunk where its text comes from; of a whole answer that would be the text once more."""


class AnswerState:
    """Chunks in, block events out. `finish` is None until the model has ended.

    A closing brace of a tool call and the reason it ended with may come in one chunk or in two, so
    nothing here depends on where chunks are cut.
    """

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self.tracker = BlockTracker(new_call_id)
        self.finish: Finish | None = None
        self.counts = TokenCounts()
        self.figures: dict[str, Any] = {}

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[BlockEvent]:
        """Raises `ApiError` as `BlockTracker.feed`."""
        for delta in read_chunk(chunk):
            match delta:
                case Finish():
                    self.finish = delta
                case TokenCounts():
                    self.counts = delta
                case Figures(values):
                    self.figures |= {name: value for name, value in values.items() if name != PROVENANCE}
                case _:
                    yield from self.tracker.feed(delta)

    def close(self) -> Iterator[BlockEvent]:
        """No more chunks will come."""
        yield from self.tracker.close()

    @property
    def finish_reason(self) -> str:
        """In OpenAI's words; a stream that just ended counts as stopped."""
        return "stop" if self.finish is None else self.finish.reason

    @property
    def extension(self) -> dict[str, Any]:
        """`{"pipesd": ...}` for the final object, empty if nothing is known."""
        return {"pipesd": self.figures} if self.figures else {}
