from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openai_gateway.errors import InvalidRequest
from openai_gateway.local import parse_request
from openai_gateway.translation.ollama.request import translate_chat, translate_generate
from openai_gateway.translation.ollama.schema import ChatRequest, GenerateRequest

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [USER]} | fields
    return translate_chat(parse_request(ChatRequest, msgspec.json.encode(body)))


def generate(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": "hi"} | fields
    return translate_generate(parse_request(GenerateRequest, msgspec.json.encode(body)))


def test_options() -> None:
    """Sampling options go by the chat API's names; how to load a model is not ours to decide."""
    options = {
        "num_predict": 8,
        "temperature": 0.5,
        "top_k": 3,
        "repeat_penalty": 1.1,
        "seed": 1,
        "stop": ["x"],
        "num_ctx": 4096,
        "num_gpu": 1,
        "mirostat": 0,
    }
    assert chat(options=options, keep_alive="5m", stream=False) == {
        "model": "m",
        "messages": [USER],
        "max_tokens": 8,
        "temperature": 0.5,
        "top_k": 3,
        "repetition_penalty": 1.1,
        "seed": 1,
        "stop": ["x"],
    }
    assert "max_tokens" not in chat(options={"num_predict": -1})


def test_names_formats_and_thinking() -> None:
    """The default tag goes; `format` and `think` have their counterparts."""
    schema = {"type": "object"}
    assert chat(model="m:latest")["model"] == "m"
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    assert chat(format=schema)["response_format"]["json_schema"]["schema"] == schema
    assert chat(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat(think="low")["reasoning_effort"] == "low"


def test_results_find_their_calls() -> None:
    """Ollama's results carry no id: they answer the calls by name, else in their order."""
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in ("f", "g")]
    messages = [
        USER,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls},
        {"role": "tool", "content": "of g", "tool_name": "g"},
        {"role": "tool", "content": "of f"},
    ]
    _, assistant, of_g, of_f = chat(messages=messages)["messages"]
    ids = {call["function"]["name"]: call["id"] for call in assistant["tool_calls"]}
    assert (of_g["tool_call_id"], of_f["tool_call_id"]) == (ids["g"], ids["f"])
    assert assistant["reasoning"] == "hm"
    assert assistant["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_generate() -> None:
    """A prompt is a user's turn, after the system prompt."""
    assert generate(system="be brief")["messages"] == [{"role": "system", "content": "be brief"}, USER]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": {"typo": 1}}, "options.typo"),
        ({"messages": [USER | {"images": ["aGk="]}]}, "messages[0].images"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"logprobs": True}, "logprobs"),
        ({"model": ""}, "model"),
    ],
)
def test_what_a_chat_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Each parameter that would change the answer and has no translation is named in a 400."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("param", ["suffix", "template", "images", "raw", "context"])
def test_what_generate_cannot_do_is_refused_by_name(param: str) -> None:
    """Raw prompts, own templates, images and infilling are named in a 400."""
    value: Any = {"raw": True, "context": [1], "images": ["aGk="]}.get(param, "x")
    with pytest.raises(InvalidRequest) as caught:
        generate(**{param: value})
    assert caught.value.param == param
