"""Anthropic's content blocks as chat messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.translation.anthropic.schema import Message
from openai_gateway.translation.parameters import object_at, objects, refuse, string

__all__ = ["messages_of", "text_of"]

ERROR_PREFIX = "Error: "
"""Chat messages have no field for a tool that failed."""

Block = Mapping[str, Any]


def messages_of(message: Message, where: str) -> list[Json]:
    """One turn as chat messages: a user's tool results become messages of their own, before its text.

    Raises `InvalidRequest` or `UnsupportedParameter` that names the first block without a translation.
    """
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    blocks = [(block, f"{where}.content[{index}]") for index, block in enumerate(message.content)]
    if message.role == "assistant":
        return [_assistant(blocks)]
    results = [_tool_result(block, place) for block, place in blocks if block.get("type") == "tool_result"]
    texts = [_text(block, place) for block, place in blocks if block.get("type") != "tool_result"]
    own = [{"role": message.role, "content": "\n".join(texts)}] if texts or not results else []
    return [*results, *own]


def text_of(content: object, where: str) -> str:
    """A string, or text blocks with line breaks between them. Raises as `messages_of`."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = objects(content, where)
    return "\n".join(_text(block, f"{where}[{index}]") for index, block in enumerate(blocks))


def _assistant(blocks: Sequence[tuple[Block, str]]) -> Json:
    texts, thoughts, calls = [], [], []
    for block, where in blocks:
        match block.get("type"):
            case "thinking":
                thoughts.append(string(block, "thinking", where))
            case "redacted_thinking":
                pass  # readable by Anthropic alone
            case "tool_use":
                calls.append(_tool_call(block, where))
            case _:
                texts.append(_text(block, where))
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if thoughts:
        message["reasoning"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: Block, where: str) -> Json:
    arguments = json.dumps(object_at(block, "input", where), ensure_ascii=False)
    function = {"name": string(block, "name", where), "arguments": arguments}
    return {"id": string(block, "id", where), "type": "function", "function": function}


def _tool_result(block: Block, where: str) -> Json:
    text = text_of(block.get("content"), f"{where}.content")
    if block.get("is_error") and not text.lower().startswith("error"):
        text = ERROR_PREFIX + text
    return {"role": "tool", "tool_call_id": string(block, "tool_use_id", where), "content": text}


def _text(block: Block, where: str) -> str:
    if (kind := block.get("type")) != "text":
        raise refuse(f"{where}.type", f"{kind!r} is not supported here: only text is")
    return string(block, "text", where)
