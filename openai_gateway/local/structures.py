"""What form an answer must have: the ways in which clients say it, as the wire's `Structure`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from openai_gateway.errors import InvalidRequest, UnsupportedParameter
from openai_gateway.local.schema import SamplingFields
from pipesd_vllm.wire import MAX_STRUCTURE_BYTES, Structure, StructureKind

__all__ = ["structure_of"]

_KINDS: Final = {
    "json": StructureKind.JSON_SCHEMA,
    "json_object": StructureKind.JSON_OBJECT,
    "regex": StructureKind.REGEX,
    "grammar": StructureKind.GRAMMAR,
    "choice": StructureKind.CHOICE,
}
"""vLLM's names, in `structured_outputs`."""


def structure_of(request: SamplingFields) -> Structure | None:
    """The form that the request asks for, None for any.

    Raises `UnsupportedParameter` for one that nobody here enforces, and `InvalidRequest` if it makes no
    sense, or if two are asked for.
    """
    found = list(_asked(request))
    if len(found) > 1:
        names = " and ".join(f"'{name}'" for name, _ in found)
        raise _invalid(found[1][0], f"{names} both say what form the answer has: choose one.")
    return found[0][1] if found else None


def _asked(request: SamplingFields) -> Iterator[tuple[str, Structure]]:
    if request.response_format is not None:
        yield from _response_format(request.response_format)
    for name, value in (request.structured_outputs or {}).items():
        if value is not None and value is not False:
            yield "structured_outputs", _structure("structured_outputs", name, value)


def _response_format(value: Mapping[str, Any]) -> Iterator[tuple[str, Structure]]:
    name, kind = "response_format", value.get("type")
    if kind == "text":
        return
    if kind == "json_object":
        yield name, Structure(StructureKind.JSON_OBJECT)
    elif kind == "json_schema":
        described = value.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if not isinstance(schema, dict):
            raise _invalid(name, "'response_format' needs 'json_schema' with an object as 'schema'.")
        yield name, _structure(name, "json", schema)
    else:
        raise UnsupportedParameter(name, f"'response_format' of type {kind!r} is not supported.")


def _structure(param: str, name: str, value: object) -> Structure:
    kind = _KINDS.get(name)
    if kind is None:
        raise UnsupportedParameter(param, f"'{param}' with '{name}' is not supported.")
    text = _text(kind, value)
    if text is None:
        raise _invalid(param, f"'{param}': the {name} should be {_EXPECTED[kind]}.")
    if len(text) > MAX_STRUCTURE_BYTES:
        raise _invalid(param, f"'{param}' is longer than {MAX_STRUCTURE_BYTES} characters.")
    return Structure(kind, text)


_EXPECTED: Final = {
    StructureKind.JSON_SCHEMA: "a JSON schema",
    StructureKind.JSON_OBJECT: "true",
    StructureKind.REGEX: "a regular expression",
    StructureKind.GRAMMAR: "a grammar",
    StructureKind.CHOICE: "a list of strings that is not empty",
}


def _text(kind: StructureKind, value: object) -> str | None:
    """`Structure.value` for what the client sent; None if it does not fit the kind."""
    match kind:
        case StructureKind.JSON_OBJECT:
            return "" if value is True else None
        case StructureKind.CHOICE:
            good = isinstance(value, list) and value and all(isinstance(choice, str) for choice in value)
            return msgspec.json.encode(value).decode() if good else None
        case StructureKind.JSON_SCHEMA if isinstance(value, dict):
            return msgspec.json.encode(value).decode()
        case StructureKind.JSON_SCHEMA:
            return value if isinstance(value, str) and _is_json_object(value) else None
        case _:
            return value if isinstance(value, str) and value else None


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except msgspec.DecodeError:
        return False


def _invalid(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")
