"""A client's messages in the form that a chat template reads.

Follows vLLM's server, so that both make the same prompt of the same messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from openai_gateway.errors import InvalidRequest
from openai_gateway.local.schema import ChatMessage, ChatRequest
from openai_gateway.local.text.template import ChatTemplate

__all__ = ["render_chat"]

RESERVED_VARIABLES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "chat_template", "tokenize"}
)

_INSTRUCTING = ("system", "developer")


def render_chat(request: ChatRequest, template: ChatTemplate) -> str:
    """The prompt text of `request`. Raises `InvalidRequest` when the template refuses it."""
    messages = [_message(message, template) for message in request.messages]
    if not template.knows_developer and any(message["role"] == "developer" for message in messages):
        messages = _with_one_system_message(messages)
    return template.render(messages, _variables(request))


def _variables(request: ChatRequest) -> dict[str, Any]:
    variables = dict(request.chat_template_kwargs or {})
    if taken := RESERVED_VARIABLES & variables.keys():
        raise InvalidRequest(
            f"'chat_template_kwargs' must not set '{min(taken)}'.", param="chat_template_kwargs"
        )
    if request.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", request.reasoning_effort)
        variables.setdefault("enable_thinking", request.reasoning_effort != "none")
    return variables


def _message(message: ChatMessage, template: ChatTemplate) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "role": message.role,
        "content": _content(message, template),
    }
    if message.name is not None:
        rendered["name"] = message.name
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        rendered["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    reasoning = message.reasoning_content if message.reasoning is None else message.reasoning
    if reasoning is not None:
        # Templates use either name.
        rendered["reasoning"] = rendered["reasoning_content"] = reasoning
    return rendered


def _with_one_system_message(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`developer` is OpenAI's newer word for `system`, and strict templates take one of those, the first."""
    leading = [message for message in messages if message["role"] in _INSTRUCTING]
    if leading == messages[:1]:
        return [messages[0] | {"role": "system"}, *messages[1:]]
    texts = [_joined(message["content"]) for message in leading]
    rest = [message for message in messages if message["role"] not in _INSTRUCTING]
    return [{"role": "system", "content": "\n\n".join(filter(None, texts))}, *rest]


def _joined(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _content(message: ChatMessage, template: ChatTemplate) -> str | list[dict[str, str]]:
    content = message.content
    as_parts = template.takes_parts and (not template.takes_text or isinstance(content, tuple))
    texts = [content] if isinstance(content, str) else content or ()
    # Templates that read parts still expect a plain string from a tool.
    if as_parts:
        return _parts(texts) if message.role != "tool" else "\n".join(texts)
    return "\n".join(filter(None, texts))


def _parts(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier tool call; templates expect its arguments as a mapping, clients send JSON text."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest("A message's 'tool_calls' must be function calls.", param="messages")
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(arguments: object) -> dict[str, Any]:
    # Broken arguments sit in the history for good: refusing them would end the conversation.
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return {}
    return arguments if isinstance(arguments, dict) else {}
