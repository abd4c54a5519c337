"""Reading what clients nest inside their requests: of the right type, or a 400 that says where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest

__all__ = ["object_at", "objects", "string", "string_or"]


def string(item: Mapping[str, Any], key: str, where: str) -> str:
    """`item[key]`. Raises `InvalidRequest` unless it is a string."""
    if not isinstance(value := item.get(key), str):
        raise _wrong(f"{where}.{key}", "a string")
    return value


def string_or(item: Mapping[str, Any], key: str, default: str, where: str) -> str:
    """As `string`; `default` for null, nothing and an empty string."""
    return string(item, key, where) if item.get(key) else default


def object_at(item: Mapping[str, Any], key: str, where: str) -> Json:
    """`item[key]`, empty for null and nothing. Raises `InvalidRequest` unless it is an object."""
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
