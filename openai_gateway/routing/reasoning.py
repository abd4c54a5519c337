"""Other servers' words for reasoning, as the chat request's own fields. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest, UnsupportedParameter

__all__ = ["with_thinking"]

_KWARGS: Final = "chat_template_kwargs"
_SWITCH: Final = "enable_thinking"
_SYNONYMS: Final = ("reasoning", "thinking", _SWITCH)
_TYPES: Final = {"enabled": True, "adaptive": True, "auto": True, "disabled": False}


def with_thinking(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat's `body` with `reasoning`, `thinking` and `enable_thinking` rewritten to what all routes follow.

    Raises `InvalidRequest` where two fields differ, `UnsupportedParameter` for a value without a counterpart.
    """
    wishes = {name: body[name] for name in _SYNONYMS if body.get(name) is not None}
    if not wishes:
        return body
    meant = {name: value for name, value in body.items() if name not in _SYNONYMS}
    for wish, value in wishes.items():
        for name, wanted in _meanings(wish, value):
            _put(meant, name, wanted, wish)
    return meant


def _meanings(wish: str, value: object) -> Iterator[tuple[str, object]]:
    """The fields that `wish` sets: of the chat request, or the template's switch."""
    if isinstance(value, bool) and wish != "reasoning":
        yield _SWITCH, value
    elif not isinstance(value, dict) or wish == _SWITCH:
        raise InvalidRequest(f"Invalid '{wish}': it has the wrong type.", param=wish, code="invalid_value")
    elif wish == "thinking":
        yield _SWITCH, _look_up(_TYPES, value.get("type"), "thinking.type")
    else:
        yield from _of_reasoning(value)


def _of_reasoning(reasoning: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in reasoning.items():
        match name, value:
            case (_, None) | ("summary", _):
                continue  # the thoughts themselves are given
            case "effort", _:
                yield "reasoning_effort", value
            case "enabled", False:
                yield "reasoning_effort", "none"
            case "enabled", True:
                yield _SWITCH, True
            case "exclude", bool():
                yield "include_reasoning", not value
            case _:
                raise UnsupportedParameter(
                    f"reasoning.{name}", f"'reasoning.{name}' with this value is not supported."
                )


def _look_up(values: Mapping[str, bool], value: object, param: str) -> bool:
    if not isinstance(value, str) or value not in values:
        message = f"'{param}' is {value!r}; choose one of {', '.join(values)}."
        raise InvalidRequest(message, param=param, code="invalid_value")
    return values[value]


def _put(body: Json, name: str, value: object, wish: str) -> None:
    """Set `name`. Raises `InvalidRequest` if another field of the client contradicts it."""
    if name == _SWITCH:
        kwargs = body.get(_KWARGS)
        if kwargs is not None and not isinstance(kwargs, dict):
            return  # the schema refuses it
        body[_KWARGS] = fields = dict(kwargs or {})
    else:
        fields = body
    if fields.get(name) is not None and fields[name] != value:
        raise InvalidRequest(f"'{wish}' and '{name}' are both set and differ.", param=wish)
    fields[name] = value
