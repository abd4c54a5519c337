"""A request to /v1/messages as a chat request. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.translation.anthropic.content import instructions_of, messages_of
from openai_gateway.translation.anthropic.schema import IGNORED, NEUTRAL, CountRequest, MessagesRequest
from openai_gateway.translation.parameters import refuse, rest_of, string

__all__ = ["prompt_fields", "translate_request"]

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_NO_INPUT = {"type": "object", "properties": {}}
_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts beyond the chat API's scale."""


def translate_request(request: MessagesRequest) -> Json:
    """The chat request. Raises `InvalidRequest` or `UnsupportedParameter` naming the parameter at fault."""
    body = rest_of(request.model_extra or {}, ignored=IGNORED, neutral=NEUTRAL)
    body |= prompt_fields(request)
    config = request.output_config
    optional = {
        "max_tokens": request.max_tokens,
        "stop": request.stop_sequences or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or None,
        "response_format": _response_format((config and config.format) or request.output_format),
        # The first event has the prompt's tokens.
        "stream_options": {"continuous_usage_stats": True} if request.stream else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def prompt_fields(request: CountRequest) -> Json:
    """The fields of the chat request that decide its prompt."""
    system = instructions_of(request.system, "system")
    messages = [{"role": "system", "content": system}] if system else []
    for index, message in enumerate(request.messages):
        messages += messages_of(message, f"messages[{index}]")
    body: Json = {"model": request.model, "messages": messages, **_tools(request), **_thinking(request)}
    if _is_prefill(messages[-1]):
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return {name: value for name, value in body.items() if value is not None}


def _is_prefill(message: Json) -> bool:
    return message["role"] == "assistant" and bool(message["content"]) and "tool_calls" not in message


def _tools(request: CountRequest) -> Json:
    choice = request.tool_choice or {}
    if not request.tools:
        if choice.get("type") in ("any", "tool"):
            raise refuse("tool_choice", "asks for a tool, but there are no 'tools'")
        return {}
    parallel = False if choice.get("disable_parallel_tool_use") else None
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    return {"tools": tools, "tool_choice": _tool_choice(choice), "parallel_tool_calls": parallel}


def _tool(tool: Mapping[str, Any], where: str) -> Json:
    if (kind := tool.get("type")) not in (None, "custom"):
        raise refuse(f"{where}.type", f"{kind!r} is not supported here: only the client's own tools are")
    optional = {"description": tool.get("description"), "strict": tool.get("strict")}
    function = {
        "name": string(tool, "name", where),
        "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
    }
    function |= {key: value for key, value in optional.items() if value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Mapping[str, Any]) -> str | Json | None:
    match choice.get("type"):
        case None:
            return None
        case "tool":
            return {"type": "function", "function": {"name": string(choice, "name", "tool_choice")}}
        case str(kind) if kind in _CHOICES:
            return _CHOICES[kind]
        case kind:
            raise refuse("tool_choice", f"of type {kind!r} does not exist")


def _thinking(request: CountRequest) -> Json:
    """Templates of models that can think both ways read `enable_thinking`; others do not look at it."""
    effort = request.output_config and request.output_config.effort
    body: Json = {"reasoning_effort": _EFFORTS.get(effort, effort) if effort else None}
    if request.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": request.thinking.type != "disabled"}
    return body


def _response_format(form: Json | None) -> Json | None:
    if form is None:
        return None
    if form.get("type") != "json_schema":
        raise refuse("output_config.format", f"of type {form.get('type')!r} is not supported here")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.get("schema")}}
