"""Errors in Anthropic's shape. Pure."""

from __future__ import annotations

from typing import Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError

__all__ = ["error_body"]

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: ApiError, request_id: str | None = None) -> Json:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`; the message names what is at fault."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    detail = {"type": _TYPES.get(error.status, default), "message": error.message}
    return {"type": "error", "error": detail, "request_id": request_id}
