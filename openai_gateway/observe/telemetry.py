"""OpenTelemetry traces, which are optional: a span for each request and one for its generation.

Without an endpoint nothing of OpenTelemetry is imported; it comes with `pip install 'pipesd[otel]'`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from edge_agent.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider

    from edge_agent.api import Generator
    from openai_gateway.observe.requests import RequestObserver

__all__ = ["Telemetry", "start_telemetry", "wants_traces"]

logger = logging.getLogger("pipesd.gateway")

_SERVICE: Final = "pipesd-gateway"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NOT_TRACED: Final = "/health$,/metrics$"
"""Paths that machines poll."""
_NEEDS_EXTRA: Final = "traces need OpenTelemetry's packages: run `pip install 'pipesd[otel]'`"


class Telemetry:
    """Sends spans through `provider`, which it shuts down in `close`, in `close_s` seconds at most."""

    def __init__(self, provider: TracerProvider, close_s: float = 3.0) -> None:
        self._provider = provider
        self._close_s = close_s

    def traced(self, generator: Generator) -> Generator:
        """`generator` with a span for each generation and each request that is passed on."""
        from openai_gateway.observe.spans import TracedGenerator

        return TracedGenerator(generator, self._provider.get_tracer("pipesd"))

    def observer(self) -> RequestObserver:
        """An observer that puts a finished request's statistics on its span."""
        from openai_gateway.observe.spans import SpanObserver

        return SpanObserver()

    def instrument(self, app: FastAPI) -> None:
        """Add a span for each request to `app`, which must not run yet; it continues the client's trace."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        # Without a span for each piece of a stream: those would cost more than the gateway itself.
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._provider,
            excluded_urls=_NOT_TRACED,
            exclude_spans=["receive", "send"],
        )

    async def close(self) -> None:
        """Send the remaining spans, for `close_s` seconds at most."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, self._close_s)


def wants_traces(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the setting, or OpenTelemetry's own environment variables, name a collector."""
    if (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    ):
        return False
    return bool(endpoint) or any(environ.get(name) for name in _ENDPOINTS)


def start_telemetry(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> Telemetry | None:
    """Telemetry that sends to the OTLP/HTTP collector at `endpoint`, or at the one that `OTEL_*` name.

    None if neither is given. Raises `ConfigError` if `endpoint` is, but the packages are not there;
    variables, which may be meant for everything on a machine, are then only warned of.
    """
    if not wants_traces(endpoint, environ):
        return None
    try:
        return Telemetry(_provider(endpoint, environ))
    except ModuleNotFoundError as error:
        if endpoint:
            raise ConfigError(f"otel_endpoint is set, but {_NEEDS_EXTRA}.") from error
        logger.warning("OTEL_* variables name a collector, but %s", _NEEDS_EXTRA)
        return None


def _provider(endpoint: str | None, environ: Mapping[str, str]) -> TracerProvider:
    """Raises `ModuleNotFoundError`."""
    import opentelemetry.instrumentation.fastapi  # noqa: F401 - so that it is missed here, not later
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {SERVICE_NAME: environ.get("OTEL_SERVICE_NAME") or _SERVICE}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)  # `close` does it
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
