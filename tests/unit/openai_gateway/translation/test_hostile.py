"""Bodies that are almost right: nothing a client sends may end as a fault of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from pydantic import BaseModel

from openai_gateway.errors import InvalidRequest
from openai_gateway.local import parse_request
from openai_gateway.translation.anthropic.request import translate_request as translate_messages
from openai_gateway.translation.anthropic.schema import MessagesRequest
from openai_gateway.translation.ollama.request import translate_chat
from openai_gateway.translation.ollama.schema import ChatRequest
from openai_gateway.translation.responses.request import translate_request as translate_responses
from openai_gateway.translation.responses.schema import ResponsesRequest

Path = tuple[str | int, ...]
Translate = Callable[[Any], object]

SCHEMA = {"type": "object"}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "instructions": "x",
    "input": [
        {"role": "developer", "content": "x"},
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "call_id": "c", "name": "look", "namespace": "n", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "x"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
    ],
    "tools": [
        {"type": "function", "name": "look", "description": "d", "parameters": SCHEMA, "strict": True},
        {
            "type": "custom",
            "name": "patch",
            "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
        },
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "look"}]},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
}
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "x"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}]},
                {"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": True},
            ],
        },
    ],
    "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 9},
    "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": SCHEMA}},
}
OLLAMA: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "thinking": "hm",
            "tool_calls": [{"id": "c", "function": {"name": "look", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "tool_name": "look", "content": "x"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
    "options": {"num_predict": 5, "temperature": 0, "mirostat": 0, "typical_p": 1},
    "format": SCHEMA,
    "think": "low",
}
JUNK = (None, True, 0, 1.5, "", "x", [], ["x"], [None], [[]], {}, {"type": []}, {"type": "x"}, [{}])


def places(value: object, path: Path = ()) -> Iterator[Path]:
    """Where a value stands in `value`, at every depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(body: dict[str, Any], path: Path, junk: object) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    return changed


@pytest.mark.parametrize(
    ("model", "translate", "body"),
    [
        (ResponsesRequest, translate_responses, RESPONSES),
        (MessagesRequest, translate_messages, MESSAGES),
        (ChatRequest, translate_chat, OLLAMA),
    ],
    ids=["responses", "messages", "ollama"],
)
def test_junk_anywhere_is_at_most_a_4xx(
    model: type[BaseModel], translate: Translate, body: dict[str, Any]
) -> None:
    """With junk in any one place a request is translated or refused as the client's fault, never ours."""
    for path, junk in product(places(body), JUNK):
        try:
            with suppress(InvalidRequest):
                translate(parse_request(model, replaced(body, path, junk)))
        except Exception as error:
            raise AssertionError(f"{junk!r} at {path}") from error


@pytest.mark.parametrize(
    ("model", "translate", "body"),
    [
        (ResponsesRequest, translate_responses, RESPONSES),
        (MessagesRequest, translate_messages, MESSAGES),
        (ChatRequest, translate_chat, OLLAMA),
    ],
    ids=["responses", "messages", "ollama"],
)
def test_without_junk_it_is_translated(
    model: type[BaseModel], translate: Translate, body: dict[str, Any]
) -> None:
    """The bodies that the junk is put into are right."""
    assert translate(parse_request(model, body))
