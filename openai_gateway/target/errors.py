"""What the server's own API refuses, as our errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edge_agent.errors import CloudRefused
from openai_gateway.errors import INVALID_REQUEST_TYPE, RETRY_AFTER_OVERLOADED_S, SERVER_ERROR_TYPE, ApiError

__all__ = ["error_in_stream", "refusal"]

BAD_GATEWAY = 502


def refusal(status: int, data: bytes, causes: tuple[str, ...], sent: Iterable[str] = ()) -> Exception:
    """The exception for an answer with `status` 400 or more: a 4xx stays what it is, with its own words.

    `causes` are the parameters that brought the request there, `sent` all of them; a refusal that names
    none in its field `param` gets the one that its text is about.
    """
    if status in (401, 403):
        return CloudRefused("invalid_api_key", "the server refused the agent's API key; check --api-key")
    detail = _detail(data)
    message = str(detail.get("message") or f"the server answered HTTP {status}")
    if status >= 500:
        return ApiError(BAD_GATEWAY, message, kind=SERVER_ERROR_TYPE, code="cloud_error")
    return ApiError(
        status,
        message,
        kind=str(detail.get("type") or INVALID_REQUEST_TYPE),
        param=_param(detail, message, causes, sent),
        code=_code(detail),
        headers={"retry-after": str(RETRY_AFTER_OVERLOADED_S)} if status == 429 else None,
    )


def error_in_stream(event: Mapping[str, Any], causes: tuple[str, ...]) -> Exception:
    """The exception for an event `{"error": {...}}` of a stream."""
    detail = event["error"] if isinstance(event["error"], dict) else {"message": event["error"]}
    code = detail.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else BAD_GATEWAY
    return refusal(status, msgspec.json.encode({"error": detail}), causes)


def _detail(data: bytes) -> Mapping[str, Any]:
    try:
        body = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {}
    error = body.get("error", body) if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _param(
    detail: Mapping[str, Any], message: str, causes: tuple[str, ...], sent: Iterable[str]
) -> str | None:
    if isinstance(param := detail.get("param"), str) and param:
        return param.removeprefix("body.")  # vLLM's own prefix for what fails its schema
    named = (cause for cause in (*causes, *sent) if re.search(rf"\b{re.escape(cause)}\b", message))
    return next(named, causes[0] if causes else None)


def _code(detail: Mapping[str, Any]) -> str | None:
    code = detail.get("code")
    return code if isinstance(code, str) else None  # vLLM repeats the status there
