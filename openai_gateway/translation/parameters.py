"""Reading a translated protocol's parameters: of the right type, or refused by name. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError, InvalidRequest, UnsupportedParameter

__all__ = [
    "object_at",
    "objects",
    "refuse",
    "rest_of",
    "string",
    "string_or",
    "with_own_names",
]


def rest_of(
    extra: Mapping[str, Any], *, ignored: Collection[str], neutral: Mapping[str, tuple[object, ...]]
) -> dict[str, Any]:
    """The parameters of `extra` that are passed on to the chat service, which checks them.

    Names in `ignored` do not change an answer and are dropped. Names in `neutral` may have only the values
    listed there (or null), and are dropped too; another value raises `UnsupportedParameter`.
    """
    rest: dict[str, Any] = {}
    for name, value in extra.items():
        if name in ignored or value is None:
            continue
        if name not in neutral:
            rest[name] = value
        elif not any(value == other and isinstance(value, type(other)) for other in neutral[name]):
            raise refuse(name, "with this value is not supported here")
    return rest


def refuse(param: str, why: str) -> UnsupportedParameter:
    """The error for `param`; its message is the sentence "'PARAM' WHY."."""
    return UnsupportedParameter(param, f"'{param}' {why}.")


def with_own_names(error: ApiError, names: Mapping[str, str]) -> ApiError:
    """`error` with the chat API's parameter names replaced by the protocol's own (`names`: chat to own)."""
    message, param = error.message, error.param
    for chat_name, own_name in names.items():
        message = message.replace(f"'{chat_name}", f"'{own_name}")
        if param is not None and param.partition("[")[0].partition(".")[0] == chat_name:
            param = own_name + param[len(chat_name) :]
    translated = ApiError(
        error.status, message, kind=error.kind, param=param, code=error.code, headers=error.headers
    )
    translated.__cause__ = error
    return translated


def string(item: Mapping[str, Any], key: str, where: str) -> str:
    """`item[key]`. Raises `InvalidRequest` unless it is a string."""
    if not isinstance(value := item.get(key), str):
        raise _wrong(f"{where}.{key}", "a string")
    return value


def string_or(item: Mapping[str, Any], key: str, default: str, where: str) -> str:
    """As `string`, but `default` if the string is null, missing or empty."""
    return string(item, key, where) if item.get(key) else default


def object_at(item: Mapping[str, Any], key: str, where: str) -> Json:
    """`item[key]`, empty if it is null or missing. Raises `InvalidRequest` unless it is an object."""
    value = item.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(f"{where}.{key}", "an object")
    return value


def objects(value: object, where: str) -> list[Json]:
    """A list of objects, empty for null. Raises `InvalidRequest` for anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(where, "a list of objects")
    return value


def _wrong(where: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}' should be {expected}.", param=where, code="invalid_value")
