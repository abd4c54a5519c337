"""Request fields that clients write in more than one way: contents, stop strings, prompts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from openai_gateway.local.sampling_fields import invalid

__all__ = ["Content", "NumLogprobs", "Prompt", "StopStrings"]

MAX_STOP_STRINGS = 64
"""OpenAI's own API stops at 4; vLLM, llama.cpp and the clients made for them know no bound."""
_TEXT_PART_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


# What the validators below take, for the OpenAPI document.
_STRING: dict[str, Any] = {"type": "string"}
_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _STRING},
}
_IDS = {"type": "array", "items": {"type": "integer"}}
_NON_EMPTY = {"type": "string", "minLength": 1}
_CONTENT_SCHEMA = WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _PART}, {"type": "null"}]})
_STOPS = {"type": "array", "items": _NON_EMPTY, "maxItems": MAX_STOP_STRINGS}
_STOP_SCHEMA = WithJsonSchema({"anyOf": [_NON_EMPTY, _STOPS, {"type": "null"}]})
_PROMPT_SCHEMA = WithJsonSchema({"anyOf": [_STRING, _IDS, {"type": "array", "items": _STRING}]})


def _text_of_part(index: int, part: object) -> str:
    if not isinstance(part, dict):
        raise invalid(f"part {index} should be an object like {{'type': 'text', 'text': ...}}")
    key = _TEXT_PART_KEYS.get(str(part.get("type")))
    if key is None:
        raise invalid(f"part {index} has type {part.get('type')!r}; only text parts are supported")
    if not isinstance(text := part.get(key), str):
        raise invalid(f"part {index} should have a string as '{key}'")
    return text


def _content(value: object) -> str | tuple[str, ...] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(_text_of_part(index, part) for index, part in enumerate(value))
    raise invalid("should be a string or a list of text parts")


def _stop(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("should be a string or a list of strings")
    if len(stops) > MAX_STOP_STRINGS:
        raise invalid(f"at most {MAX_STOP_STRINGS} stop strings are allowed, got {len(stops)}")
    if "" in stops:
        raise invalid("a stop string must not be empty")
    return tuple(stops)


def _none_for_false(value: object) -> object:
    """In a chat `logprobs` is a boolean; clients of both say "none" with false."""
    return None if value is False else value


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(value: object) -> str | tuple[int, ...]:
    # A list of prompts asks for one choice each; a list of one is a plain prompt.
    if isinstance(value, list) and value and not _is_token_id(value[0]):
        if len(value) > 1:
            raise invalid("only one prompt a request is supported: send one request for each")
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(map(_is_token_id, value)):
        return tuple(value)
    raise invalid("should be a string, a list of token ids, or a list of one of these")


Content = Annotated[str | tuple[str, ...] | None, PlainValidator(_content), _CONTENT_SCHEMA]
"""A string, or a list of text parts, which is kept as the tuple of their texts."""
StopStrings = Annotated[tuple[str, ...], PlainValidator(_stop), _STOP_SCHEMA]
Prompt = Annotated[str | tuple[int, ...], PlainValidator(_prompt), _PROMPT_SCHEMA]
"""One prompt, of text or of token ids; in a list of its own, too."""
NumLogprobs = Annotated[int | None, Field(ge=-1), BeforeValidator(_none_for_false)]
