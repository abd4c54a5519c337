from __future__ import annotations

from typing import Any

import pytest

from edge_agent.api import GenerationStats, Route
from openai_gateway.target.shapes import TargetChunks, complete_whole


def chunks(*, include_usage: bool = False, times: list[float] | None = None) -> TargetChunks:
    clock = iter(times or [float(second) for second in range(1, 100)])
    return TargetChunks(GenerationStats(Route.CLOUD, "n"), lambda: next(clock), include_usage=include_usage)


def delta(index: int = 0, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": index, "delta": fields, "finish_reason": reason}]}


def test_whole_answer() -> None:
    """The server's body is kept, with both names of reasoning, our figures and llama.cpp's."""
    message = {"role": "assistant", "content": "a", "reasoning": "because"}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    body = complete_whole(
        {"id": "x", "choices": [{"message": message}], "usage": usage}, GenerationStats(Route.CLOUD, "n")
    )
    assert body["choices"][0]["message"]["reasoning_content"] == "because"
    assert body["pipesd"]["route"] == "cloud"
    assert body["pipesd"]["verified"] is True
    assert (body["timings"]["prompt_n"], body["timings"]["predicted_n"]) == (5, 7)
    assert body["usage"] == usage


def test_first_delta_of_a_tool_call() -> None:
    """Each call's first delta has index, id, type and name, each later one its index."""
    shape = chunks()
    [first] = shape.push(delta(tool_calls=[{"id": "c1", "function": {"name": "f"}}]))
    [later] = shape.push(delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]))
    [other] = shape.push(delta(tool_calls=[{"index": 1, "function": {"name": "g", "arguments": ""}}]))
    [call] = first["choices"][0]["delta"]["tool_calls"]
    assert call == {"id": "c1", "index": 0, "type": "function", "function": {"name": "f", "arguments": ""}}
    assert later["choices"][0]["delta"]["tool_calls"] == [{"index": 0, "function": {"arguments": "{}"}}]
    [call] = other["choices"][0]["delta"]["tool_calls"]
    assert call["index"] == 1
    assert call["id"]
    assert call["type"] == "function"


def test_usage_only_when_asked_for() -> None:
    """A usage chunk that nobody asked for is left out, and so is a usage beside a choice."""
    usage = {"choices": [], "usage": {"prompt_tokens": 1}}
    assert not [*chunks().push(usage)]
    assert [chunk["usage"] for chunk in chunks(include_usage=True).push(usage)] == [{"prompt_tokens": 1}]
    [content] = chunks().push({**delta(content="a"), "usage": {"prompt_tokens": 1}})
    assert "usage" not in content


@pytest.mark.parametrize("include_usage", [False, True])
def test_figures_at_the_end(include_usage: bool) -> None:
    """The chunk that ends a choice waits for the server's counts; times are those of the text."""
    shape = chunks(include_usage=include_usage, times=[2.0, 3.0])
    for quiet in (delta(role="assistant", content=""), delta(content="a")):
        assert [*shape.push(quiet)] == [quiet]
    assert not [*shape.push(delta(reason="stop", content="b"))]
    ends = [*shape.push({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})]
    assert [bool(end["choices"]) for end in ends] == [True, False][: 1 + include_usage]
    for end in ends:
        assert end["pipesd"]["ttft_ms"] == 2000.0
        assert (end["timings"]["predicted_ms"], end["timings"]["predicted_n"]) == (1000.0, 2)
        assert end["timings"]["prompt_n"] == 3
    assert not [*shape.flush()]


def test_ends_come_without_counts_too() -> None:
    """The end of one choice waits for the next chunk at most, and the last for the end of the stream."""
    shape = chunks()
    assert not [*shape.push(delta(0, "stop", content="a"))]
    assert [chunk["choices"][0]["index"] for chunk in shape.push(delta(1, content="b"))] == [0, 1]
    assert not [*shape.push(delta(1, "length"))]
    [end] = shape.flush()
    assert end["pipesd"]["route"] == "cloud"


def test_both_names_of_reasoning() -> None:
    """Reasoning under either name is there under both."""
    for name in ("reasoning", "reasoning_content"):
        seen = next(chunks().push(delta(**{name: "hm"})))["choices"][0]["delta"]
        assert seen == {"reasoning": "hm", "reasoning_content": "hm"}
