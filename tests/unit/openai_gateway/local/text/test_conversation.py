from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openai_gateway.errors import InvalidRequest
from openai_gateway.local import ChatRequest, parse_request
from openai_gateway.local.text.conversation import render_chat
from openai_gateway.local.text.template import ChatTemplate

AS_JSON = "{{ messages | tojson }}"
"""Shows a template what it was given."""
PARTS_ONLY = "{% for m in messages %}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endfor %}"
TEXT_PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def given_to_template(messages: list[dict[str, Any]]) -> Any:
    return msgspec.json.decode(rendered(AS_JSON, messages))


def rendered(source: str, messages: list[dict[str, Any]], **fields: Any) -> str:
    body = msgspec.json.encode({"messages": messages, **fields})
    return render_chat(parse_request(ChatRequest, body), ChatTemplate(source, {}))


def test_strings_stay_strings() -> None:
    """Plain messages reach the template as they are, names included."""
    message = {"role": "user", "content": "hi", "name": "ann"}
    assert given_to_template([message]) == [message]


def test_parts_are_joined_for_text_templates() -> None:
    """A template that reads strings gets the parts joined by line breaks, as vLLM does it."""
    assert rendered("{{ messages[0]['content'] }}", [{"role": "user", "content": TEXT_PARTS}]) == "a\nb"


def test_parts_stay_parts_for_templates_that_read_them() -> None:
    """A template that reads parts gets parts, also made of a plain string."""
    assert rendered(PARTS_ONLY, [{"role": "user", "content": TEXT_PARTS}]) == "[a][b]"
    assert rendered(PARTS_ONLY, [{"role": "user", "content": "a"}]) == "[a]"


@pytest.mark.parametrize(("content_format", "expected"), [("string", "a b"), ("openai", "[a] [b]")])
def test_the_servers_word_on_contents(content_format: str, expected: str) -> None:
    """A template that reads both forms gets the server's choice; a tool's result stays a string."""
    source = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}"
        "{% else %}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endif %} {% endfor %}"
    )
    template = ChatTemplate(source, {}, content_format=content_format)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "c", "tool_call_id": "1"},
    ]
    body = msgspec.json.encode({"messages": messages})
    assert render_chat(parse_request(ChatRequest, body), template) == f"{expected}  c "


def test_the_servers_template_variables() -> None:
    """What the server gives its template holds here, too, unless a request says otherwise."""
    template = ChatTemplate("{{ mood }}", {}, variables={"mood": "calm"})
    messages = {"messages": [{"role": "user", "content": "x"}]}
    assert render_chat(parse_request(ChatRequest, messages), template) == "calm"
    asked = messages | {"chat_template_kwargs": {"mood": "wild"}}
    assert render_chat(parse_request(ChatRequest, asked), template) == "wild"


def test_developer_becomes_system_unless_known() -> None:
    """`developer` is `system` for a template that does not know it."""
    messages = [{"role": "developer", "content": "x"}]
    assert given_to_template(messages)[0]["role"] == "system"
    source = "{% if messages[0].role == 'developer' %}known{% endif %}"
    assert rendered(source, messages) == "known"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), ("{", {}), ("[1]", {}), (None, {})],
)
def test_tool_call_arguments_become_mappings(arguments: Any, expected: dict[str, Any]) -> None:
    """Arguments of earlier tool calls are mappings; broken ones are empty, so the conversation goes on."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = given_to_template([{"role": "assistant", "content": None, "tool_calls": [call]}])[0]
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": expected}
    assert message["content"] == ""


def test_tool_call_that_is_none() -> None:
    """A tool call without a function is refused."""
    with pytest.raises(InvalidRequest, match="function calls"):
        given_to_template([{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}])


def test_reasoning_has_both_names() -> None:
    """Earlier reasoning is there under either name, because templates differ."""
    for name in ("reasoning", "reasoning_content"):
        message = given_to_template([{"role": "assistant", "content": "x", name: "because"}])[0]
        assert message["reasoning"] == message["reasoning_content"] == "because"


def test_template_variables() -> None:
    """`chat_template_kwargs` and `reasoning_effort` reach the template."""
    source = "{{ enable_thinking }} {{ reasoning_effort }}"
    messages = [{"role": "user", "content": "x"}]
    assert rendered(source, messages, chat_template_kwargs={"enable_thinking": False}) == "False "
    assert rendered(source, messages, reasoning_effort="none") == "False none"


def test_reserved_variables() -> None:
    """A client cannot replace what the gateway itself gives to the template."""
    with pytest.raises(InvalidRequest) as caught:
        rendered("x", [{"role": "user", "content": "x"}], chat_template_kwargs={"messages": []})
    assert caught.value.param == "chat_template_kwargs"
