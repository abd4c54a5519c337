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
    """They go to the one place where all bodies are read; what cannot be one of them does not."""
    options = {"num_predict": 8, "temperature": 0.5, "repeat_penalty": 1.1, "num_ctx": 4096, "stream": 3}
    assert chat(options=options, keep_alive="5m", stream=False) == {
        "model": "m",
        "messages": [USER],
        "num_predict": 8,
        "temperature": 0.5,
        "repeat_penalty": 1.1,
        "num_ctx": 4096,
    }


def test_names_formats_and_thinking() -> None:
    """The default tag goes; `format` and `think` have their counterparts."""
    schema = {"type": "object"}
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    assert chat(format=schema)["response_format"]["schema"] == schema
    assert chat(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat(think="low")["reasoning_effort"] == "low"
    assert chat(think="false") == chat(think=False)


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


@pytest.mark.parametrize(
    ("image", "url"), [("iVBORw0KGgoAA", "data:image/png;base64,iVBORw0KGgoAA"), ("data:x", "data:x")]
)
def test_images(image: str, url: str) -> None:
    """They go to the server as the chat API has them."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": url}}]
    assert chat(messages=[USER | {"images": [image]}])["messages"] == [{"role": "user", "content": parts}]
    assert generate(images=[image])["messages"] == [{"role": "user", "content": parts}]


def test_prompts_as_they_are() -> None:
    """Raw prompts, and those with a suffix, are completions."""
    assert generate(raw=True) == {"model": "m", "prompt": "hi"}
    assert generate(suffix="end", options={"num_predict": 3}) == {
        "model": "m",
        "prompt": "hi",
        "suffix": "end",
        "num_predict": 3,
    }


@pytest.mark.parametrize(
    ("fields", "param"), [({"template": "x"}, "template"), ({"raw": True, "images": ["x"]}, "images")]
)
def test_what_generate_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """An own template, and images in a raw prompt, are named in a 400."""
    with pytest.raises(InvalidRequest) as caught:
        generate(**fields)
    assert caught.value.param == param
