from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given

from openai_gateway.errors import ApiError
from openai_gateway.translation.answer import (
    AnswerState,
    Block,
    BlockEvent,
    BlockTracker,
    Closed,
    Grew,
    Opened,
    ToolCallDelta,
)

from .answers import CUTS, FINISHES, Part, chunks_of, parts


def run(answer: Sequence[Part], cuts: Sequence[int], finish: str) -> tuple[AnswerState, list[BlockEvent]]:
    state = AnswerState(lambda: "call_new")
    events = [event for chunk in chunks_of(answer, cuts, finish) for event in state.feed(chunk)]
    return state, [*events, *state.close()]


@given(parts(), CUTS, FINISHES)
def test_cuts_do_not_show_in_the_blocks(answer: list[Part], cuts: list[int], finish: str) -> None:
    """However the chunks are cut, blocks, counts and finish reason are those of the answer in one piece."""
    state, _ = run(answer, cuts, finish)
    whole, _ = run(answer, [1000], finish)
    assert state.tracker.blocks == whole.tracker.blocks
    assert [block.text for block in state.tracker.blocks] == [part.text for part in answer]
    assert (state.finish, state.counts, state.figures) == (whole.finish, whole.counts, whole.figures)


@given(parts(), CUTS, FINISHES)
def test_one_block_is_open_at_a_time(answer: list[Part], cuts: list[int], finish: str) -> None:
    """Each block is opened, grows and is closed before the next one; its pieces add up to its text."""
    _, events = run(answer, cuts, finish)
    is_open: Block | None = None
    text = ""
    for event in events:
        match event:
            case Opened(block):
                assert is_open is None
                is_open, text = block, ""
            case Grew(block, piece):
                assert block is is_open
                text += piece
            case Closed(block):
                assert block is is_open
                assert block.text == text
                is_open = None
    assert is_open is None


def test_a_call_without_an_id_gets_one() -> None:
    """Servers that leave the id out do not leave the client without one."""
    tracker = BlockTracker(lambda: "call_new")
    list(tracker.feed(ToolCallDelta(0, None, "f", "{}")))
    assert tracker.blocks[0].call_id == "call_new"


def test_mixed_up_calls_end_the_answer() -> None:
    """More of a call that another one has followed is an error, not a wrong call."""
    tracker = BlockTracker(lambda: "call_new")
    for delta in (ToolCallDelta(0, "a", "f", "{"), ToolCallDelta(1, "b", "g", "{")):
        list(tracker.feed(delta))
    with pytest.raises(ApiError, match="mixed up"):
        list(tracker.feed(ToolCallDelta(0, None, None, "}")))
