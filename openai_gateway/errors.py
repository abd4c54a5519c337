"""What the gateway answers when it cannot serve a request, in OpenAI's error shape.

ApiError                      status, message, type, param, code, headers
├── InvalidRequest            400; the request itself is at fault
│   ├── UnsupportedParameter  a parameter asks for something that is not implemented
│   └── ContextLengthExceeded prompt or requested answer exceed the context
├── InvalidApiKey             401
├── HostNotAllowed            403; see access.py
├── OriginNotAllowed          403; see access.py
├── ModelNotFound             404
├── BodyTooSlow               408
├── BodyTooLarge              413
└── TooManyRequests           429; see keys.py

All foreign errors become these here: the edge agent's exceptions (`from_edge_error`), what the server's own
API refuses (`refusal`), and what nobody expected (`translate`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edge_agent.errors import (
    CloudMisbehaved,
    CloudRefused,
    CloudUnreachable,
    DraftCapacityError,
    EdgeError,
    NoDraftModel,
)
from pipesd_vllm.wire import RefusalCode

__all__ = [
    "ApiError",
    "BodyTooLarge",
    "BodyTooSlow",
    "ContextLengthExceeded",
    "HostNotAllowed",
    "InvalidApiKey",
    "InvalidRequest",
    "ModelNotFound",
    "OriginNotAllowed",
    "TooManyRequests",
    "UnsupportedParameter",
    "error_in_stream",
    "from_edge_error",
    "from_status",
    "internal_error",
    "refusal",
    "shown",
    "translate",
]

BAD_GATEWAY = 502
RETRY_AFTER_UNREACHABLE_S = 2
RETRY_AFTER_OVERLOADED_S = 1

INVALID_REQUEST_TYPE = "invalid_request_error"
SERVER_ERROR_TYPE = "server_error"


_CONTEXT = re.compile(r"maximum\s+(?:context|model)\s+length|max_model_len")
"""In the words of vLLM and its former versions."""

logger = logging.getLogger("pipesd.gateway")


class ApiError(Exception):
    """An answer with `status` and a body in OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST_TYPE,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    """The request itself is at fault; `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(400, message, param=param, code=code)


class UnsupportedParameter(InvalidRequest):
    """A parameter that would change the answer and is not implemented."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message, param=param, code="unsupported_parameter")


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the requested answer alone, does not fit into the model's context."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


_MOST_SHOWN = 100


def shown(value: str) -> str:
    """Foreign text for a message: on one line, not too long."""
    return value if len(value) <= _MOST_SHOWN and value.isprintable() else repr(value)[:_MOST_SHOWN]


class InvalidApiKey(ApiError):
    """The key is missing or wrong."""

    def __init__(self) -> None:
        super().__init__(
            401,
            "Incorrect or missing API key: send it as 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class HostNotAllowed(ApiError):
    """A gateway without a key is asked under a name that is not its own; `host` as it was sent."""

    def __init__(self, host: str) -> None:
        message = (
            f"This gateway has no key and does not answer to the host '{host}': start it with "
            "--allowed-host NAME if that is a name of it, or with a key (--gateway-api-key)."
        )
        super().__init__(403, message, code="host_not_allowed")


class OriginNotAllowed(ApiError):
    """A web page asks a gateway without a key; `origin` as it was sent, None if the browser sent none."""

    def __init__(self, origin: str | None) -> None:
        page = "web pages of other sites" if origin is None else f"web pages of '{origin}'"
        message = (
            f"This gateway has no key and does not answer {page}: start it with --allow-origin ORIGIN if you "
            "trust them, or with a key (--gateway-api-key)."
        )
        super().__init__(403, message, code="origin_not_allowed")


class ModelNotFound(ApiError):
    """The named model is not served here."""

    def __init__(self, model: str, served: str) -> None:
        message = (
            f"The model '{shown(model)}' does not exist here; this gateway serves '{served}'. Start it with "
            "--alias NAME=default or with --any-model to serve it under other names."
        )
        super().__init__(404, message, param="model", code="model_not_found")


class BodyTooLarge(ApiError):
    """The request body exceeds `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"The request body exceeds {limit_bytes} bytes.", code="request_too_large")


class BodyTooSlow(ApiError):
    """Next to nothing of the body has come for `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        message = f"Next to nothing of the request's body has come for {timeout_s:g} s."
        super().__init__(408, message, code="request_timeout", headers={"connection": "close"})


class TooManyRequests(ApiError):
    """As many requests as its key allows, `limit`, are under way."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"{limit} requests with this key are under way, as many as it allows.",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": str(RETRY_AFTER_OVERLOADED_S)},
        )


def internal_error() -> ApiError:
    """The answer to an unexpected exception, whose details are in the log and not in the body."""
    return ApiError(
        500,
        "The gateway failed while serving this request; its log has the details.",
        kind=SERVER_ERROR_TYPE,
        code="internal_error",
    )


def from_status(status: int, message: str, headers: Mapping[str, str] | None = None) -> ApiError:
    """An error that the web framework raised (unknown path, wrong method)."""
    kind = INVALID_REQUEST_TYPE if status < 500 else SERVER_ERROR_TYPE
    return ApiError(status, message, kind=kind, headers=headers)


def from_edge_error(error: EdgeError) -> ApiError:
    """The answer to an exception of the edge agent.

    Only what no later try would get becomes a 4xx: clients retry a 5xx.
    """
    message = str(error)
    if isinstance(error, CloudRefused):
        return _from_refusal(error.code, message)
    if isinstance(error, CloudUnreachable):
        return ApiError(
            503,
            message,
            kind="service_unavailable_error",
            code="cloud_unreachable",
            headers={"retry-after": str(RETRY_AFTER_UNREACHABLE_S)},
        )
    if isinstance(error, DraftCapacityError):
        headers = {"retry-after": str(RETRY_AFTER_OVERLOADED_S)}
        return ApiError(429, message, kind="rate_limit_error", code="draft_busy", headers=headers)
    if isinstance(error, NoDraftModel):
        return InvalidRequest(message, param="model", code="no_draft_model")
    if isinstance(error, CloudMisbehaved):
        return ApiError(502, message, kind=SERVER_ERROR_TYPE, code="cloud_misbehaved")
    return ApiError(500, message, kind=SERVER_ERROR_TYPE, code="configuration_error")


def _from_refusal(code: str, message: str) -> ApiError:
    match code:
        case RefusalCode.PROMPT_TOO_LONG:
            return InvalidRequest(message, code="context_length_exceeded")
        case RefusalCode.OVERLOADED:
            headers = {"retry-after": str(RETRY_AFTER_OVERLOADED_S)}
            return ApiError(429, message, kind="rate_limit_error", code=code, headers=headers)
        case RefusalCode.ENGINE_ERROR:
            return ApiError(502, message, kind=SERVER_ERROR_TYPE, code=code)
        case _:
            return InvalidRequest(message, code=code)


def translate(error: Exception) -> ApiError:
    """Any exception as the error a client gets; unexpected ones go to the log in full."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EdgeError):
        return from_edge_error(error)
    logger.error("unexpected error while serving a request", exc_info=error)
    return internal_error()


def refusal(status: int, data: bytes, causes: tuple[str, ...], sent: Iterable[str] = ()) -> Exception:
    """The exception for the server's answer with `status` 400 or more; a 4xx keeps its status and message.

    `causes` are the parameters that needed the server's own API, `sent` all of them; a refusal without the
    field `param` gets the first of them that its message names.
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
        code=_code(detail, message),
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


def _code(detail: Mapping[str, Any], message: str) -> str | None:
    code = detail.get("code")
    if isinstance(code, str):
        return code  # vLLM repeats the status there
    # Agents shorten their conversation when they see OpenAI's code.
    return "context_length_exceeded" if _CONTEXT.search(message) else None
