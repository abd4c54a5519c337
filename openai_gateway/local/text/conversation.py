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


def render_chat(request: ChatRequest, template: ChatTemplate) -> str:
    """The prompt text of `request`. Raises `InvalidRequest` when the template refuses it."""
    messages = [_message(message, template) for message in request.messages]
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
        "role": _role(message.role, template),
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


def _role(role: str, template: ChatTemplate) -> str:
    """`developer` is OpenAI's newer word for `system`; few templates know it."""
    return "system" if role == "developer" and not template.knows_developer else role


def _content(message: ChatMessage, template: ChatTemplate) -> str | list[dict[str, str]]:
    content = message.content
    as_parts = template.takes_parts and (not template.takes_text or isinstance(content, tuple))
    # Templates that read parts still expect a plain string from a tool.
    if as_parts and message.role != "tool":
        return _parts([content] if isinstance(content, str) else content or ())
    return content if isinstance(content, str) else "\n".join(content or ())


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
