from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given

from openai_gateway.errors import ApiError
from openai_gateway.translation.anthropic.encoder import MessageEncoder, MessageFrame

from ..answers import CUTS, FINISHES, Part, chunks_of, counter, parts

FRAME = MessageFrame("msg_1", "m")
FIELDS = {"thinking_delta": "thinking", "text_delta": "text", "input_json_delta": "partial_json"}


def run(
    chunks: Iterable[dict[str, Any]], frame: MessageFrame = FRAME
) -> tuple[MessageEncoder, list[dict[str, Any]]]:
    one = MessageEncoder(frame, counter())
    events = [*one.start()]
    for chunk in chunks:
        events += one.feed(chunk)
    return one, [*events, *one.end()]


@given(parts(), CUTS, FINISHES)
def test_cuts_do_not_show_in_the_message(answer: list[Part], cuts: list[int], finish: str) -> None:
    """The message is the same however the answer was cut."""
    cut, _ = run(chunks_of(answer, cuts, finish))
    whole, _ = run(chunks_of(answer, [1000], finish))
    assert cut.final() == whole.final()


@given(parts(), CUTS, FINISHES)
def test_the_events_add_up(answer: list[Part], cuts: list[int], finish: str) -> None:
    """Blocks come one after the other with their own index, and their deltas are the message's content."""
    cut, events = run(chunks_of(answer, cuts, finish))
    texts: list[str] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(texts)
                texts.append("")
                is_open = True
            case "content_block_delta" if event["delta"]["type"] in FIELDS:
                assert event["index"] == len(texts) - 1
                texts[-1] += event["delta"][FIELDS[event["delta"]["type"]]]
            case "content_block_stop":
                is_open = False
    assert texts == [part.text for part in answer]
    assert [block["type"] for block in cut.final()["content"]] == [
        {"reasoning": "thinking", "content": "text", "call": "tool_use"}[part.kind] for part in answer
    ]
    delta = events[-2]
    assert delta["usage"] == cut.final()["usage"]
    assert delta["delta"]["stop_reason"] == cut.final()["stop_reason"]


@pytest.mark.parametrize(("stop", "reason"), [(None, "tool_use"), ("END", "stop_sequence")])
def test_a_call_by_name(stop: str | None, reason: str) -> None:
    """vLLM and OpenAI end it with "stop"; for this API it is a call that waits for its result."""
    chunks = chunks_of([Part("call", "{}")], [9], "stop")
    chunks[-2]["choices"][0]["stop_reason"] = stop
    one, events = run(chunks)
    assert one.final()["stop_reason"] == events[-2]["delta"]["stop_reason"] == reason


def test_cached_tokens_are_counted_apart() -> None:
    """Anthropic's `input_tokens` are those that did not come from the cache."""
    one, _ = run(chunks_of([Part("content", "hi")], [2], "stop"))
    usage = one.final()["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (3, 2, 4)


@pytest.mark.parametrize(
    ("finish", "frame", "reason"),
    [
        ("stop", FRAME, "end_turn"),
        ("length", FRAME, "max_tokens"),
        ("tool_calls", FRAME, "tool_use"),
        ("content_filter", FRAME, "refusal"),
        ("length", MessageFrame("m", "m", max_tokens=4), "max_tokens"),
        ("length", MessageFrame("m", "m", max_tokens=5), "model_context_window_exceeded"),
        ("stop", MessageFrame("m", "m", max_tokens=5), "end_turn"),
    ],
)
def test_stop_reasons(finish: str, frame: MessageFrame, reason: str) -> None:
    """Every finish reason has its word; an answer of fewer tokens than the limit filled the context."""
    one, _ = run(chunks_of([Part("content", "hi")], [2], finish), frame)
    assert one.final()["stop_reason"] == reason


def test_a_stop_sequence_is_named() -> None:
    """The stop string that the server reports becomes `stop_sequence`."""
    chunks = chunks_of([Part("content", "hi")], [2], "stop")
    chunks[-2]["choices"][0]["stop_reason"] = "END"
    one, _ = run(chunks)
    assert (one.final()["stop_reason"], one.final()["stop_sequence"]) == ("stop_sequence", "END")


def test_thoughts_can_be_left_out() -> None:
    """With `display: omitted` the first block that is shown has index 0."""
    answer = [Part("reasoning", "hm"), Part("content", "hi")]
    one, events = run(chunks_of(answer, [9], "stop"), MessageFrame("m", "m", shows_thinking=False))
    assert [block["type"] for block in one.final()["content"]] == ["text"]
    assert [event["index"] for event in events if "index" in event] == [0, 0, 0]


def test_tool_input_is_an_object_whatever_the_model_wrote() -> None:
    """Arguments are parsed; what is no JSON object is kept where Anthropic's documentation puts it."""
    arguments = ['{"a": 1}', '{"a": ', "[1]", ""]
    inputs = []
    for text in arguments:
        one, _ = run(chunks_of([Part("call", text)], [99], "tool_calls"))
        inputs.append(one.final()["content"][0]["input"])
    assert inputs == [{"a": 1}, {"INVALID_JSON": '{"a": '}, {"INVALID_JSON": "[1]"}, {}]
    assert json.dumps(inputs)


def test_a_failure_is_an_error_event() -> None:
    """Mid-stream errors have Anthropic's shape and type."""
    [event] = MessageEncoder(FRAME, counter()).fail(ApiError(503, "gone"))
    assert event["type"] == "error"
    assert event["error"] == {"type": "overloaded_error", "message": "gone"}
