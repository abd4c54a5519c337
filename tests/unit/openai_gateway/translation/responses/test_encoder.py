from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from hypothesis import given

from openai_gateway.errors import ApiError
from openai_gateway.translation.responses.encoder import ResponsesEncoder
from openai_gateway.translation.responses.output import conversation_after
from openai_gateway.translation.responses.tools import ToolTable

from ..answers import CUTS, FINISHES, Part, chunks_of, counter, parts

TOOLS = ToolTable([{"type": "custom", "name": "f1"}, {"type": "function", "name": "f0"}])


def encoder() -> ResponsesEncoder:
    return ResponsesEncoder({"id": "resp_1", "object": "response", "store": True}, TOOLS, counter())


def run(chunks: Iterable[dict[str, Any]]) -> tuple[ResponsesEncoder, list[dict[str, Any]]]:
    one = encoder()
    events = [*one.start()]
    for chunk in chunks:
        events += one.feed(chunk)
    return one, [*events, *one.end()]


@given(parts(), CUTS, FINISHES)
def test_cuts_do_not_show_in_the_response(answer: list[Part], cuts: list[int], finish: str) -> None:
    """The response object is the same however the answer was cut, and the last event carries it."""
    cut, events = run(chunks_of(answer, cuts, finish))
    whole, _ = run(chunks_of(answer, [1000], finish))
    assert cut.final() == whole.final() == events[-1]["response"]
    assert events[-1]["type"] == ("response.incomplete" if finish == "length" else "response.completed")


@given(parts(), CUTS, FINISHES)
def test_the_events_add_up(answer: list[Part], cuts: list[int], finish: str) -> None:
    """Numbers count up; each item's deltas are its text, and its last form is the one in the response."""
    cut, events = run(chunks_of(answer, cuts, finish))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas: dict[str, str] = defaultdict(str)
    for event in events:
        if event["type"].endswith(".delta"):
            deltas[event["item_id"]] += event["delta"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == cut.final()["output"]
    for item in done:
        texts = {"function_call": "arguments", "custom_tool_call": "input"}
        key = texts.get(item["type"])
        assert deltas[item["id"]] == (item[key] if key else item["content"][0]["text"])


def test_event_order_of_a_text() -> None:
    """The sequence that OpenAI documents for a message, from `created` to `completed`."""
    _, events = run(chunks_of([Part("content", "hi")], [2], "stop"))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_figures_usage_and_the_reason_of_a_cut() -> None:
    """Usage is OpenAI's, our figures come along, and a limit that was hit is called by its name."""
    one, _ = run(chunks_of([Part("content", "hi")], [2], "length"))
    response = one.final()
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 2
    assert response["usage"]["total_tokens"] == 9
    assert response["pipesd"] == {"route": "collaborative"}
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


def test_a_failure_ends_with_what_there_was() -> None:
    """`response.failed` names the error and keeps the text so far."""
    one = encoder()
    chunks = chunks_of([Part("content", "hi")], [1], "stop")[:2]
    events = [event for chunk in chunks for event in one.feed(chunk)]
    [failed] = one.fail(ApiError(503, "gone", code="cloud_unreachable"))
    assert events
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "cloud_unreachable", "message": "gone"}
    assert failed["response"]["output"][0]["content"][0]["text"] == "h"


def test_the_next_turn_knows_this_one() -> None:
    """Thoughts, text and calls of an answer go into the conversation as one chat message."""
    one, _ = run(chunks_of([Part("reasoning", "hm"), Part("content", "hi"), Part("call", "{}")], [9], "stop"))
    [message] = conversation_after([], one.state.tracker.blocks)
    call = {"id": "call_0", "type": "function", "function": {"name": "f0", "arguments": "{}"}}
    assert message == {"role": "assistant", "content": "hi", "reasoning": "hm", "tool_calls": [call]}
