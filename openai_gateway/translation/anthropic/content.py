"""Anthropic's content blocks as chat messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.translation.anthropic.schema import Message
from openai_gateway.translation.parameters import object_at, objects, refuse, string, string_or

__all__ = ["instructions_of", "messages_of"]

ERROR_PREFIX = "Error: "
"""Chat messages have no field for a tool that failed."""

_BILLING = "x-anthropic-billing-header"

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
    if message.role == "system":
        return (
            [{"role": "system", "content": text}] if (text := instructions_of(message.content, where)) else []
        )
    results, parts = [], []
    for block, place in blocks:
        if block.get("type") == "tool_result":
            results += _tool_result(block, place)
        else:
            parts += _part(block, place)
    own = [{"role": message.role, "content": _content(parts)}] if parts or not results else []
    return [*results, *own]


def instructions_of(content: object, where: str) -> str:
    """A system prompt's text, without the line in which a coding agent counts its requests for billing.

    It differs each time, so that no prompt behind it would ever be in the prefix cache. vLLM drops it, and
    joins the blocks in this way, too.
    """
    if content is None or isinstance(content, str):
        blocks: list[Block] = [{"type": "text", "text": content or ""}]
    else:
        blocks = list(objects(content, where))
    texts = (_text(block, f"{where}[{index}]") for index, block in enumerate(blocks))
    return "".join(text for text in texts if not text.startswith(_BILLING))


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


def _tool_result(block: Block, where: str) -> list[Json]:
    """The result as text, and what it shows in a user's message after it: few templates look for it there."""
    content = block.get("content")
    if content is None or isinstance(content, str):
        text, images = content or "", []
    else:
        parts = [
            part
            for index, each in enumerate(objects(content, f"{where}.content"))
            for part in _part(each, f"{where}.content[{index}]")
        ]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        images = [part for part in parts if part["type"] != "text"]
    if block.get("is_error") and not text.lower().startswith("error"):
        text = ERROR_PREFIX + text
    result = {"role": "tool", "tool_call_id": string(block, "tool_use_id", where), "content": text}
    return [result, *([{"role": "user", "content": images}] if images else [])]


def _content(parts: list[Json]) -> str | list[Json]:
    if not parts or (len(parts) == 1 and parts[0]["type"] == "text"):
        return str(parts[0]["text"]) if parts else ""
    return parts


def _part(block: Block, where: str) -> list[Json]:
    """One part of a chat message; none for an empty text."""
    if block.get("type") != "image":
        text = _text(block, where)
        return [{"type": "text", "text": text}] if text else []
    source = object_at(block, "source", where)
    if source.get("type") == "url":
        url = string(source, "url", f"{where}.source")
    elif source.get("type") == "base64":
        kind = string_or(source, "media_type", "image/jpeg", f"{where}.source")
        url = f"data:{kind};base64,{string(source, 'data', f'{where}.source')}"
    else:
        raise refuse(f"{where}.source.type", f"{source.get('type')!r} is not supported here")
    return [{"type": "image_url", "image_url": {"url": url}}]


def _text(block: Block, where: str) -> str:
    if (kind := block.get("type")) != "text":
        raise refuse(f"{where}.type", f"{kind!r} is not supported here: only text and images are")
    return string(block, "text", where)
