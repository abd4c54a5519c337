"""Each of vLLM's tool-call parsers gives a session the chunks that it gives the plain route."""

# ruff: noqa: RUF001 - DeepSeek's tokens have wide bars

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tests.answers import Answer

from .front_end import SEED, FrontEnd, answered, both, cut, make_model

pytestmark = pytest.mark.filterwarnings("ignore")

CHAT = "/v1/chat/completions"
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "How is it?"}],
    "seed": SEED,
    "tools": TOOLS,
    "chat_template_kwargs": {"thinking": True},
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
THOUGHTS = "Hm, ich prüfe."
CITIES = ("Zürich 🌦", "Bern")


class Format(NamedTuple):
    """What a model writes that calls `weather` for each of `CITIES`; `marks` are tokens of its own."""

    calls: str
    marks: tuple[str, ...] = ()
    parser: str = ""
    """Its name, where the format is not called by it."""
    after_text: bool = True
    """Whether the parser finds calls behind a text."""
    reasoning: str = ""
    """A reasoning parser, which finds `thoughts` before the calls."""
    thoughts: str = ""


DEEPSEEK = (
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>"),
    *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
)
FORMATS = {
    "llama3_json": Format(
        '{"name": "weather", "parameters": {"city": "Zürich 🌦"}}; '
        '{"name": "weather", "parameters": {"city": "Bern"}}',
        ("<|python_tag|>",),
        after_text=False,
    ),
    "mistral": Format(
        '[TOOL_CALLS]weather[ARGS]{"city": "Zürich 🌦"}[TOOL_CALLS]weather[ARGS]{"city": "Bern"}',
        ("[TOOL_CALLS]", "[ARGS]"),
    ),
    "mistral before v11": Format(
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Zürich 🌦"}}, '
        '{"name": "weather", "arguments": {"city": "Bern"}}]',
        ("[TOOL_CALLS]",),
        "mistral",
    ),
    "pythonic": Format("[weather(city='Zürich 🌦'), weather(city='Bern')]", after_text=False),
    "deepseek_v3": Format(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
        '```json\n{"city": "Zürich 🌦"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
        '```json\n{"city": "Bern"}\n```<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>",
        DEEPSEEK,
    ),
    "deepseek_v31": Format(
        "<｜tool▁calls▁begin｜>"
        '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Zürich 🌦"}<｜tool▁call▁end｜>'
        '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Bern"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        DEEPSEEK,
    ),
    "deepseek_v32": Format(
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n'
        '<｜DSML｜parameter name="city" string="true">Zürich 🌦</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="weather">\n'
        '<｜DSML｜parameter name="city" string="true">Bern</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜function_calls>",
        ("｜DSML｜",),
    ),
    "granite": Format(
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Zürich 🌦"}}, '
        '{"name": "weather", "arguments": {"city": "Bern"}}]',
        ("<|tool_call|>",),
    ),
    "kimi_k2": Format(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
        '<|tool_call_argument_begin|>{"city": "Zürich 🌦"}<|tool_call_end|>'
        '<|tool_call_begin|>functions.weather:1<|tool_call_argument_begin|>{"city": "Bern"}<|tool_call_end|>'
        "<|tool_calls_section_end|>",
        (
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
            *("<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"),
        ),
    ),
    "glm47": Format(
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Zürich 🌦</arg_value></tool_call>"
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Bern</arg_value></tool_call>",
        ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "minimax_m2": Format(
        "<minimax:tool_call>\n"
        '<invoke name="weather">\n<parameter name="city">Zürich 🌦</parameter>\n</invoke>\n'
        '<invoke name="weather">\n<parameter name="city">Bern</parameter>\n</invoke>\n</minimax:tool_call>',
        ("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    "gemma4": Format(
        '<|tool_call>call:weather{city:<|"|>Zürich 🌦<|"|>}<tool_call|>'
        '<|tool_call>call:weather{city:<|"|>Bern<|"|>}<tool_call|>',
        ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
    ),
}
FORMATS |= {
    f"{name} with thoughts": FORMATS[name]._replace(
        calls=begin + THOUGHTS + end + FORMATS[name].calls,
        parser=name,
        after_text=False,
        reasoning=reasoning,
        thoughts=THOUGHTS,
    )
    for name, reasoning, begin, end in (
        ("deepseek_v31", "deepseek_v3", "", "</think>"),
        ("kimi_k2", "kimi_k2", "<think>", "</think>"),
        ("glm47", "glm47", "", "</think>"),
        ("minimax_m2", "minimax_m2", "", "</think>"),
        ("gemma4", "gemma4", "<|channel>thought\n", "<channel|>"),
    )
}


@pytest.fixture(scope="module", params=FORMATS)
def parser(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def front(parser: str, tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    """A front end with one parser, before a model whose vocabulary has the tokens that it asks for."""
    written = FORMATS[parser]
    model = make_model(tmp_path_factory.mktemp("model"), *written.marks)
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", written.parser or parser]
    if written.reasoning:
        flags += ["--reasoning-parser", written.reasoning]
    front = FrontEnd(model, *flags)
    front.engine.says("Well: " * written.after_text + written.calls, "No call, but an ürgent {text}")
    return front


def first_message(answer: Answer) -> Any:
    """Of the first choice; that of a stream put together, with a dictionary of calls."""
    if answer.is_stream:
        return answer.comparable()[1][0][0]["delta"]
    message = answer.whole()["choices"][0]["message"]
    return message | {"tool_calls": dict(enumerate(message["tool_calls"]))}


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"tool_choice": "required"}, {"max_tokens": 50}],
    ids=["call and text", "required", "cut"],
)
async def test_calls_are_those_of_the_plain_route(
    front: FrontEnd, parser: str, fields: dict[str, Any], streamed: bool
) -> None:
    """Chunk by chunk, of two calls in one answer; and there are calls to compare."""
    got = await both(front, CHAT, BODY | fields | (STREAMED if streamed else {}))
    assert got.status == 200, got.body
    assert all(begun.drafted for begun in got.begun)
    if "n" in fields:
        message = first_message(got)
        calls = [call["function"] for call in message["tool_calls"].values()]
        assert [call["name"] for call in calls] == ["weather", "weather"]
        assert [json.loads(call["arguments"]) for call in calls] == [{"city": city} for city in CITIES]
        assert (message.get("reasoning") or "") == FORMATS[parser].thoughts


async def test_calls_are_taken_over(front: FrontEnd) -> None:
    """By another server, wherever the line was lost: a parser begins anew, and says the same."""
    body = BODY | STREAMED
    undisturbed, frames = await answered(front, CHAT, body)
    for place in range(3, len(frames), len(frames) // 5):
        held, resume = cut(frames, place)
        rest, _ = await answered(front, CHAT, body, resume)
        before = held.by_choice().get(0, []) if held.status else []
        assert before + rest.by_choice().get(0, []) == undisturbed.by_choice()[0], f"after frame {place}"
