from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openai_gateway.errors import InvalidRequest
from openai_gateway.local import parse_request
from openai_gateway.translation.responses.request import Translated, translate_request
from openai_gateway.translation.responses.schema import ResponsesRequest

TOOL = {
    "type": "function",
    "name": "look",
    "description": "d",
    "parameters": {"type": "object"},
    "strict": True,
}


def translated(**fields: Any) -> Translated:
    body = msgspec.json.encode({"model": "m", "input": "hi"} | fields)
    return translate_request(parse_request(ResponsesRequest, body))


def test_a_plain_request() -> None:
    """Text in, limits and sampling carried over under the chat API's names, and nothing else."""
    chat = translated(instructions="be brief", max_output_tokens=9, temperature=0.5, top_p=0.9)
    assert chat.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_instructions_and_leading_system_turns_become_one() -> None:
    """Templates take one system message: instructions and a developer's first turns share it."""
    items = [{"role": "developer", "content": "b"}, {"role": "user", "content": "hi"}]
    messages = translated(instructions="a", input=items).body["messages"]
    assert messages == [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "hi"}]


def test_an_assistants_turn_is_one_message() -> None:
    """Thoughts, text and calls of one turn are one chat message, its results messages of their own."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** x"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}],
        },
    ]
    user, assistant, *results = translated(input=items).body["messages"]
    assert user == {"role": "user", "content": "hi"}
    assert (assistant["content"], assistant["reasoning"]) == ("let me see", "hm")
    calls = [(call["id"], call["function"]) for call in assistant["tool_calls"]]
    assert calls == [
        ("c1", {"name": "look", "arguments": '{"a":1}'}),
        ("c2", {"name": "patch", "arguments": '{"input": "*** x"}'}),
    ]
    assert results == [
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
    ]


def test_tools_of_every_kind_that_can_be_offered() -> None:
    """Functions are nested, namespaces flattened, free-text tools wrapped, and the way back is known."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
    tools = [
        TOOL,
        {"type": "custom", "name": "patch", "description": "p", "format": grammar},
        {"type": "namespace", "name": "mail", "description": "", "tools": [TOOL]},
        {"type": "web_search", "external_web_access": False},
    ]
    chat = translated(
        tools=tools, tool_choice={"type": "function", "name": "look"}, parallel_tool_calls=False
    )
    functions = [tool["function"] for tool in chat.body["tools"]]
    assert [function["name"] for function in functions] == ["look", "patch", "mail__look"]
    assert functions[0] == {key: value for key, value in TOOL.items() if key != "type"}
    assert "start: /x/" in functions[1]["description"]
    assert chat.body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert chat.body["parallel_tool_calls"] is False
    assert chat.tools.left_out == ["web_search"]
    found = chat.tools.resolve("mail__look")
    assert (found.name, found.namespace, found.is_custom) == ("look", "mail", False)


def test_allowed_tools_narrow_the_offer() -> None:
    """`allowed_tools` offers just those."""
    other = TOOL | {"name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    body = translated(tools=[TOOL, other], tool_choice=choice).body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["other"]
    assert body["tool_choice"] == "required"


def test_a_schema_is_nested_one_deeper() -> None:
    """`text.format` becomes the chat API's `response_format`; plain text asks for nothing."""
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert translated(text={"format": form}).body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert "response_format" not in translated(text={"format": {"type": "text"}}).body


def test_what_agents_always_send_is_taken() -> None:
    """Codex's routine fields change nothing but the effort."""
    body = translated(
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        client_metadata={"a": "b"},
        metadata={"x": "y"},
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        reasoning={"effort": "low", "summary": "auto"},
        service_tier="auto",
    ).body
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "reasoning_effort": "low"}


def test_images() -> None:
    """A user's images go to the server as the chat API has them."""
    parts = [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
    ]
    [message] = translated(input=[{"role": "user", "content": parts}]).body["messages"]
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]


def test_vendor_parameters_reach_the_chat_service() -> None:
    """What is not OpenAI's at all is judged where chat requests are."""
    assert translated(top_k=4).body["top_k"] == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].file_id"),
        ({"input": [{"role": "system", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": 3}, "input.str"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1]"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Each parameter that would change the answer and has no translation is named in a 400."""
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.param == param
