"""One log line for each finished request: counts, times and ids; no text, no keys."""

from __future__ import annotations

import sys
from typing import Any, Literal, TextIO

import structlog

from openai_gateway.observe.requests import Finished

__all__ = ["LogFormat", "RequestLog"]

LogFormat = Literal["console", "json"]

_STATS = ("ttft_ms", "tpt_ms", "acceptance_rate", "passes_per_token")


class RequestLog:
    """Implements `RequestObserver`; writes to `stream`, stderr unless given."""

    def __init__(self, log_format: LogFormat, stream: TextIO | None = None) -> None:
        renderer: structlog.typing.Processor
        if log_format == "json":
            renderer = structlog.processors.JSONRenderer()
        else:
            renderer = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
        self._log: Any = structlog.wrap_logger(
            structlog.PrintLogger(stream or sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                renderer,
            ],
        )

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
