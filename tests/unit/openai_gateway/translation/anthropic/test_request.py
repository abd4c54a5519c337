from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openai_gateway.errors import InvalidRequest
from openai_gateway.local import parse_request
from openai_gateway.translation.anthropic.request import translate_request
from openai_gateway.translation.anthropic.schema import MessagesRequest

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "look", "description": "d", "input_schema": {"type": "object"}}


def translated(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "max_tokens": 9, "messages": [USER]} | fields
    return translate_request(parse_request(MessagesRequest, msgspec.json.encode(body)))


def test_a_plain_request() -> None:
    """System prompt, limits and sampling carried over under the chat API's names, and nothing else."""
    assert translated(system="be brief", temperature=0.5, top_k=3, stop_sequences=["END"]) == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, USER],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "stop": ["END"],
    }


def test_what_agents_always_send_is_taken() -> None:
    """Claude Code's cache marks, metadata and context management change nothing."""
    cached = {"cache_control": {"type": "ephemeral"}}
    body = translated(
        system=[{"type": "text", "text": "a"} | cached, {"type": "text", "text": "b"} | cached],
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi"} | cached]}],
        metadata={"user_id": "u"},
        stream=True,
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        tools=[TOOL | cached],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )
    assert body["messages"] == [{"role": "system", "content": "ab"}, USER]
    assert body["tools"][0]["function"] == {
        "name": "look",
        "description": "d",
        "parameters": {"type": "object"},
    }
    assert body["tool_choice"] == "auto"
    assert body["parallel_tool_calls"] is False
    assert body.keys() == {
        *("model", "messages", "max_tokens", "stream_options"),
        *("tools", "tool_choice", "parallel_tool_calls"),
    }


def test_calls_and_results() -> None:
    """Thoughts, text and calls are one assistant message; results stand before the user's next words."""
    messages = [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "?"},
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "go on"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "x"}],
                },
            ],
        },
    ]
    _, assistant, result, user = translated(messages=messages)["messages"]
    assert assistant == {
        "role": "assistant",
        "content": "let me see",
        "reasoning": "hm",
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
        ],
    }
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "Error: x"}
    assert user == {"role": "user", "content": "go on"}


def test_images() -> None:
    """They go to the server as the chat API has them; those of a tool's result in a message behind it."""
    data = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    link = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "see"}, link]}
    content = [result, {"type": "text", "text": "what?"}, {"type": "text", "text": ""}, data]
    assert translated(messages=[{"role": "user", "content": content}])["messages"] == [
        {"role": "tool", "tool_call_id": "t", "content": "see"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ]


def test_the_last_assistant_turn_is_continued() -> None:
    """A prefilled answer asks the chat service to go on with it, not to answer it."""
    body = translated(messages=[USER, {"role": "assistant", "content": "The"}])
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_tool_choices(choice: dict[str, Any], expected: object) -> None:
    """Every choice has its word in the chat API."""
    assert translated(tools=[TOOL], tool_choice=choice)["tool_choice"] == expected


def test_thinking_effort_and_schema() -> None:
    """Thinking is switched by the template's variable; effort and schema go by the chat API's names."""
    schema = {"type": "object"}
    config = {"effort": "max", "format": {"type": "json_schema", "schema": schema}}
    body = translated(thinking={"type": "enabled", "budget_tokens": 1024}, output_config=config)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["reasoning_effort"] == "high"
    assert body["response_format"]["json_schema"]["schema"] == schema
    off = translated(thinking={"type": "disabled"})
    assert off["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document"}]}
                        ],
                    }
                ]
            },
            "messages[0].content[0].content[0].type",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"temperature": 1.5}, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Each parameter that would change the answer and has no translation is named in a 400."""
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message
