"""HTTP below the endpoints: bodies, keys, errors, event streams."""

from openai_gateway.http.access import (
    ANY_ORIGIN,
    LOOPBACK_ONLY,
    AccessPolicy,
    BrowserGuard,
    Cors,
)
from openai_gateway.http.requests import (
    install_error_handlers,
    json_response,
    key_check,
    read_body,
    unless_gone,
)
from openai_gateway.http.streaming import EventStream, answer_stream, read_events, sse_event

__all__ = [
    "ANY_ORIGIN",
    "LOOPBACK_ONLY",
    "AccessPolicy",
    "BrowserGuard",
    "Cors",
    "EventStream",
    "answer_stream",
    "install_error_handlers",
    "json_response",
    "key_check",
    "read_body",
    "read_events",
    "sse_event",
    "unless_gone",
]
