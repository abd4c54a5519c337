"""Input items as chat messages. Pure.

An assistant's turn is one message in the chat API and several items here: thoughts, text, calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.translation.parameters import objects, refuse, string, string_or
from openai_gateway.translation.responses.tools import custom_arguments, tool_name

__all__ = ["messages_of", "with_instructions"]

_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_SYSTEM_ROLES = ("system", "developer")
_ROLES = (*_SYSTEM_ROLES, "user", "assistant")


def messages_of(items: str | Sequence[Mapping[str, Any]]) -> list[Json]:
    """Chat messages for `items`.

    Raises `InvalidRequest` or `UnsupportedParameter` that names the first item without a translation.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Json] = []
    for index, item in enumerate(items):
        _add(messages, item, f"input[{index}]")
    return [message for message in messages if not _is_lone_thought(message)]


def with_instructions(instructions: str | None, messages: Iterable[Json]) -> list[Json]:
    """`messages` with all leading instructions in one system message: most templates take only one."""
    rest = list(messages)
    leading = [instructions] if instructions else []
    while rest and rest[0]["role"] in _SYSTEM_ROLES:
        leading.append(rest.pop(0)["content"])
    return [{"role": "system", "content": "\n\n".join(leading)}, *rest] if leading else rest


def _add(messages: list[Json], item: Mapping[str, Any], where: str) -> None:
    match item.get("type", "message"):
        case "message":
            _add_message(messages, item, where)
        case "reasoning":
            _assistant(messages, opens_turn=True)["reasoning"] = _thoughts(item, where)
        case "function_call":
            _add_call(messages, item, where, string_or(item, "arguments", "{}", where))
        case "custom_tool_call":
            _add_call(messages, item, where, custom_arguments(string_or(item, "input", "", where)))
        case "function_call_output" | "custom_tool_call_output":
            output = _text(item.get("output"), f"{where}.output")
            call_id = string(item, "call_id", where)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        case kind:
            raise refuse(f"{where}.type", f"{kind!r} is not supported here")


def _add_message(messages: list[Json], item: Mapping[str, Any], where: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"'{where}.role' should be one of {', '.join(_ROLES)}.", param=f"{where}.role")
    content, place = item.get("content"), f"{where}.content"
    if role == "user" and isinstance(content, list) and any(map(_is_image, content)):
        parts = [_part(part, f"{place}[{index}]") for index, part in enumerate(content)]
        messages.append({"role": role, "content": parts})
        return
    text = _text(content, place)
    if role != "assistant":
        messages.append({"role": role, "content": text})
        return
    message = _assistant(messages)
    message["content"] = text if message["content"] is None else message["content"] + text


def _is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "input_image"


def _part(part: Any, where: str) -> Json:
    """A part of a user's message in the chat API."""
    if not _is_image(part):
        return {"type": "text", "text": _text_of_part(part, where)}
    if part.get("image_url") is None:
        raise refuse(f"{where}.file_id", "is not supported here: give the image as 'image_url'")
    detail = {"detail": part["detail"]} if part.get("detail") else {}
    return {"type": "image_url", "image_url": {"url": string(part, "image_url", where), **detail}}


def _add_call(messages: list[Json], item: Mapping[str, Any], where: str, arguments: str) -> None:
    call = {
        "id": string(item, "call_id", where),
        "type": "function",
        "function": {"name": tool_name(item, where).chat_name, "arguments": arguments},
    }
    _assistant(messages).setdefault("tool_calls", []).append(call)


def _assistant(messages: list[Json], *, opens_turn: bool = False) -> Json:
    """The assistant's message that the next item belongs to; thoughts come before the rest of a turn."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or (opens_turn and not _is_lone_thought(last)):
        last = {"role": "assistant", "content": None}
        messages.append(last)
    return last


def _is_lone_thought(message: Json) -> bool:
    return message["role"] == "assistant" and message.get("content") is None and not message.get("tool_calls")


def _thoughts(item: Mapping[str, Any], where: str) -> str:
    parts = objects(item.get("content"), f"{where}.content") or objects(
        item.get("summary"), f"{where}.summary"
    )
    return "".join(string(part, "text", where) for part in parts)


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"'{where}' should be a string or a list of parts.", param=where)
    return "".join(_text_of_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _text_of_part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise refuse(f"{where}.type", f"{kind!r} is not supported here: only text is, and images of users")
    return string(part, _TEXT_PARTS[kind], where)
