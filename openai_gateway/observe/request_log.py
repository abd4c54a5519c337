"""One log line for each finished request: counts, times and ids; no text, no keys."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, TextIO

import structlog

from openai_gateway.http import CURRENT, HttpRequest
from openai_gateway.observe.requests import Finished

__all__ = ["LogFormat", "RequestLog", "json_logging"]

LogFormat = Literal["console", "json"]

_STATS = ("ttft_ms", "tpt_ms", "acceptance_rate", "passes_per_token")


class RequestLog:
    """Implements `RequestObserver` and `HttpWatcher`; writes to `stream`, stderr unless given."""

    def __init__(self, log_format: LogFormat, stream: TextIO | None = None) -> None:
        self._log: Any = structlog.wrap_logger(
            structlog.PrintLogger(stream or sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _renderer(log_format),
            ],
        )

    def answered(self, request: HttpRequest) -> None:
        """See `HttpWatcher.answered`: what was refused before it could be an answer."""
        if request.is_reported or request.status < 400:
            return
        values = {
            "request_id": request.request_id,
            "key": request.key_label,
            "endpoint": f"{request.method} {request.path}",
            "status": request.status,
            "error": request.error_code,
            "duration_ms": round(request.duration_ms, 1),
        }
        write = self._log.error if request.status >= 500 else self._log.info
        write("request", **{name: value for name, value in values.items() if value is not None})

    def started(self) -> None:
        """See `RequestObserver.started`."""

    def gap(self, model: str, route: str, elapsed_s: float) -> None:
        """See `RequestObserver.gap`."""

    def finished(self, request: Finished) -> None:
        """See `RequestObserver.finished`."""
        write = self._log.error if request.status >= 500 else self._log.info
        write("request", **fields(request))


def fields(request: Finished) -> dict[str, Any]:
    """The fields of the line; unknown ones are left out."""
    values = {
        "request_id": request.request_id,
        "key": request.key_label,
        "model": request.model,
        "endpoint": request.endpoint,
        "route": request.route,
        "reason": request.reason,
        "status": request.status,
        "error": request.error_code,
        "streamed": request.streamed,
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": request.completion_tokens,
        "duration_ms": round(request.duration_ms, 1),
        **{name: request.stats.get(name) for name in _STATS},
    }
    return {name: value for name, value in values.items() if value is not None}


def _renderer(log_format: LogFormat) -> structlog.typing.Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)


def json_logging(stream: TextIO | None = None) -> logging.Handler:
    """A handler that writes what every library logs as JSON lines of the same form, tracebacks in a field."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _with_request,
            ],
            processors=[
                structlog.processors.format_exc_info,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    return handler


def _with_request(_: Any, __: str, event: Any) -> Any:
    """Say which request it was about."""
    if (current := CURRENT.get()) is not None:
        event["request_id"] = current.request_id
    return event
