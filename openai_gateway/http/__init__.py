"""HTTP below the endpoints: bodies, keys, errors, event streams."""

from openai_gateway.http.access import (
    ANY_ORIGIN,
    LOOPBACK_ONLY,
    AccessPolicy,
    BrowserGuard,
    Cors,
)
from openai_gateway.http.context import CURRENT, HttpRequest, HttpWatcher, RequestContext
from openai_gateway.http.keys import DEFAULT_LABEL, ApiKeys, key_check, read_keys
from openai_gateway.http.paths import PathRepair
from openai_gateway.http.requests import (
    RenderError,
    install_error_handlers,
    json_response,
    openai_error,
    read_body,
    unless_gone,
)
from openai_gateway.http.streaming import (
    UNBUFFERED,
    EventStream,
    answer_stream,
    json_text,
    read_events,
    sse_event,
)

__all__ = [
    "ANY_ORIGIN",
    "CURRENT",
    "DEFAULT_LABEL",
    "LOOPBACK_ONLY",
    "UNBUFFERED",
    "AccessPolicy",
    "ApiKeys",
    "BrowserGuard",
    "Cors",
    "EventStream",
    "HttpRequest",
    "HttpWatcher",
    "PathRepair",
    "RenderError",
    "RequestContext",
    "answer_stream",
    "install_error_handlers",
    "json_response",
    "json_text",
    "key_check",
    "openai_error",
    "read_body",
    "read_events",
    "read_keys",
    "sse_event",
    "unless_gone",
]
