from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given

from openai_gateway.errors import ApiError
from openai_gateway.testing import chat_chunk
from openai_gateway.translation.answer import (
    AnswerState,
    Block,
    BlockEvent,
    BlockTracker,
    Closed,
    Finish,
    Grew,
    Opened,
    ReasoningDelta,
    Stats,
    TextDelta,
    TokenCounts,
    ToolCallDelta,
    chunk_of_whole,
    read_chunk,
)

from .answers import CUTS, FINISHES, Part, chunks_of, parts


def test_every_field_of_a_chunk_is_read() -> None:
    """Thoughts (under either name), text, calls, finish reason, usage and our figures all come out."""
    call = {"index": 1, "id": "call_x", "type": "function", "function": {"name": "f", "arguments": "{"}}
    chunk = chat_chunk({"reasoning_content": "hm", "content": "hi", "tool_calls": [call]}, "tool_calls")
    chunk |= {
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        "pipesd": {"route": "cloud"},
    }
    assert list(read_chunk(chunk)) == [
        ReasoningDelta("hm"),
        TextDelta("hi"),
        ToolCallDelta(1, "call_x", "f", "{"),
        Finish("tool_calls"),
        TokenCounts(3, 2, 1, 1),
        Stats({"route": "cloud"}),
    ]


def test_thoughts_sent_under_both_names_count_once() -> None:
    """vLLM's two names for the same thoughts do not double them."""
    chunk = chat_chunk({"reasoning": "hm", "reasoning_content": "hm"})
    assert list(read_chunk(chunk)) == [ReasoningDelta("hm")]


def test_a_stop_string_is_told_from_a_stop_token() -> None:
    """`stop_reason` is a string for a stop string; for a stop token it is a number, which is nobody's."""
    for stop_reason, expected in (("END", "END"), (2, None), (None, None)):
        chunk = chat_chunk({}, "stop")
        chunk["choices"][0]["stop_reason"] = stop_reason
        assert list(read_chunk(chunk)) == [Finish("stop", expected)]


def test_a_whole_answer_reads_like_a_stream_of_it() -> None:
    """The tool calls of a whole answer, which carry no index, get theirs."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (0, 1)
    ]
    message = {"role": "assistant", "content": "hi", "tool_calls": calls}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    deltas = list(read_chunk(chunk_of_whole(body)))
    assert deltas == [
        TextDelta("hi"),
        ToolCallDelta(0, "c0", "f", "{}"),
        ToolCallDelta(1, "c1", "f", "{}"),
        Finish("tool_calls"),
    ]


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
    assert (state.finish, state.counts, state.stats) == (whole.finish, whole.counts, whole.stats)


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
    with pytest.raises(ApiError, match="interleaved"):
        list(tracker.feed(ToolCallDelta(0, None, None, "}")))
