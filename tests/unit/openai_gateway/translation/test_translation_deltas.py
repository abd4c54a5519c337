from __future__ import annotations

from openai_gateway.testing.chat_service import chat_chunk
from openai_gateway.translation.answer import (
    Figures,
    Finish,
    ReasoningDelta,
    TextDelta,
    TokenCounts,
    ToolCallDelta,
    chunk_of_whole,
    read_chunk,
)


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
        Figures({"route": "cloud"}),
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
