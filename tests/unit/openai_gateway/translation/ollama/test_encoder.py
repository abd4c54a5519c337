from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given

from openai_gateway.errors import ApiError
from openai_gateway.translation.ollama.encoder import ChatEncoder, GenerateEncoder, LineEncoder

from ..answers import CUTS, FINISHES, Part, chunks_of, counter, parts


class Clock:
    """A second passes with every look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def run(
    chunks: Iterable[dict[str, Any]], kind: type[LineEncoder] = ChatEncoder
) -> tuple[LineEncoder, list[dict[str, Any]]]:
    one = kind("m", lambda: 0.0, counter())
    lines = [line for chunk in chunks for line in one.feed(chunk)]
    return one, [*lines, *one.end()]


@given(parts(), CUTS, FINISHES)
def test_cuts_do_not_show_in_the_answer(answer: list[Part], cuts: list[int], finish: str) -> None:
    """The whole answer is the same however it was cut, and the lines add up to it."""
    cut, lines = run(chunks_of(answer, cuts, finish))
    whole, _ = run(chunks_of(answer, [1000], finish))
    assert cut.final() == whole.final()
    message = cut.final()["message"]
    assert "".join(line["message"]["content"] for line in lines) == message["content"]
    assert "".join(line["message"].get("thinking", "") for line in lines) == message.get("thinking", "")
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert calls == message.get("tool_calls", [])
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_generate_has_its_own_field() -> None:
    """/api/generate gives text in `response` and thoughts beside it."""
    one, lines = run(
        chunks_of([Part("reasoning", "hm"), Part("content", "hi")], [9], "length"), GenerateEncoder
    )
    final = one.final()
    assert (final["response"], final["thinking"], final["done_reason"]) == ("hi", "hm", "length")
    assert "message" not in final
    assert [line["response"] for line in lines] == ["", "hi", ""]


def test_durations_and_counts() -> None:
    """Durations are in ns, up to the first piece and from there to the end; counts are the usage's."""
    clock = Clock()
    one = ChatEncoder("m", clock, counter())
    for chunk in chunks_of([Part("content", "hi")], [1], "stop"):
        list(one.feed(chunk))
    last = list(one.end())[-1]
    assert last["prompt_eval_duration"] == 1_000_000_000
    assert last["total_duration"] == last["prompt_eval_duration"] + last["eval_duration"]
    assert (last["prompt_eval_count"], last["eval_count"]) == (5, 4)
    assert last["pipesd"] == {"route": "collaborative"}
    assert last["created_at"].endswith("Z")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_arguments_are_an_object_whatever_the_model_wrote(text: str) -> None:
    """What is no JSON object is kept under a name that says so."""
    one, _ = run(chunks_of([Part("call", text)], [9], "tool_calls"))
    [call] = one.final()["message"]["tool_calls"]
    assert call["function"] == {"name": "f0", "arguments": {"invalid_json": text}}


def test_a_failure_is_a_line() -> None:
    """Mid-stream errors are lines with `error`, which clients raise."""
    assert list(ChatEncoder("m", Clock(), counter()).fail(ApiError(503, "gone"))) == [{"error": "gone"}]
