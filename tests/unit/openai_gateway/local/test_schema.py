from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_gateway.errors import InvalidRequest
from openai_gateway.local import ChatRequest, CompletionRequest, parse_request

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatRequest:
    return parse_request(ChatRequest, msgspec.json.encode({"messages": [USER], **fields}))


def complete(**fields: Any) -> CompletionRequest:
    return parse_request(CompletionRequest, msgspec.json.encode({"prompt": "hi", **fields}))


def refusal_of(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


def test_smallest_requests() -> None:
    """Messages or a prompt are all a request needs."""
    assert chat().messages[0].content == "hi"
    assert complete().prompt == "hi"


def test_null_means_left_out() -> None:
    """Every optional field may be null, as clients send it."""
    names = ["model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"]
    names += ["stream", "stream_options", "stop_token_ids", "ignore_eos", "chat_template_kwargs"]
    assert chat(**dict.fromkeys(names)) == chat(stop=[]).model_copy(
        update=dict.fromkeys(names) | {"stop": ()}
    )


def test_text_parts_are_read() -> None:
    """Content may be a list of text parts, under the names different clients give them."""
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == ("a", "b")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_all_roles(role: str) -> None:
    """OpenAI's roles are accepted."""
    assert chat(messages=[{"role": role, "content": "x", "name": "n"}]).messages[0].role == role


def test_assistant_with_tool_calls_needs_no_content() -> None:
    """An earlier assistant turn that only called tools has no content."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert chat(messages=[USER, message]).messages[1].tool_calls == [call]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_assistant_that_only_thought_needs_no_content(name: str) -> None:
    """An answer cut off in its thoughts has no content, and may come back as history."""
    message = {"role": "assistant", "content": None, name: "hm"}
    assert getattr(chat(messages=[USER, message]).messages[1], name) == "hm"
    assert refusal_of(messages=[message | {"role": "user"}]).param == "messages[0]"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", "a"), (["a"], "a"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ("", ""), ([], ())],
)
def test_prompt_forms(prompt: Any, expected: object) -> None:
    """A prompt is a string, token ids, or a list of one of these."""
    assert complete(prompt=prompt).prompt == expected


@pytest.mark.parametrize("prompt", [["a", "b"], [1, "a"], [True], {"a": 1}, 3, None, [[1], [2]], [1.5]])
def test_other_prompts_are_refused(prompt: Any) -> None:
    """Several prompts, and anything that is not a prompt, name the field in the refusal."""
    with pytest.raises(InvalidRequest) as caught:
        complete(prompt=prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), (["a"] * 64, ("a",) * 64), ([], ()), (None, ())],
)
def test_stop_forms(stop: Any, expected: tuple[str, ...]) -> None:
    """`stop` is a string or up to 64."""
    assert chat(stop=stop).stop == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": True, "stream_options": {"include_usage": "?"}}, "stream_options.include_usage"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, None),
        ({"model": 3}, "model"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], param: str | None) -> None:
    """A wrong type or value is a 400 that names the field, in its parameter and its message."""
    error = refusal_of(**fields)
    assert (error.status, error.param) == (400, param)
    assert (param or "Invalid request") in error.message


def test_missing_field() -> None:
    """A missing field has its own code."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request(ChatRequest, b"{}")
    assert (caught.value.param, caught.value.code) == ("messages", "missing_required_parameter")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none(number: bytes) -> None:
    """NaN and infinities are refused wherever a number is asked for."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request(CompletionRequest, b'{"prompt": "x", "temperature": ' + number + b"}")
    assert caught.value.param == ("temperature" if number == b"1e999" else None)  # JSON has no NaN


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 10_000])
def test_malformed_json(body: bytes) -> None:
    """What is not JSON, or not Unicode text, is a 400."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request(CompletionRequest, body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"3", b'"x"', b"null"])
def test_json_that_is_no_object(body: bytes) -> None:
    """A body must be an object."""
    with pytest.raises(InvalidRequest, match="object"):
        parse_request(CompletionRequest, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(ChatRequest.model_fields)), value=json_values)
def test_any_json_is_read_or_refused(field: str, value: object) -> None:
    """Whatever is in a field, the outcome is a request or an `InvalidRequest`."""
    body = msgspec.json.encode({"messages": [USER], "stream": True, field: value})
    with contextlib.suppress(InvalidRequest):
        parse_request(ChatRequest, body)


def test_the_newer_limit_wins() -> None:
    """`max_completion_tokens` is the newer name of `max_tokens`; either, or both alike, set the limit."""
    assert chat(max_tokens=3).token_limit == 3
    assert chat(max_completion_tokens=4).token_limit == 4
    assert chat(max_tokens=5, max_completion_tokens=5).token_limit == 5


def test_message_with_braces() -> None:
    """A refusal that quotes the client's text keeps its braces."""
    error = refusal_of(messages=[{"role": "user", "content": [{"type": "{x}"}]}])
    assert "{x}" in error.message
