"""OpenTelemetry traces, if they are asked for: a span for each request and one for its generation.

Without an endpoint nothing of OpenTelemetry is imported; it comes with `pip install 'pipesd[otel]'`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, Tracer

from edge_agent.api import (
    ForwardedAnswer,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Generator,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.errors import ConfigError
from openai_gateway.observe.requests import Finished

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider

    from edge_agent.api import Generator
    from openai_gateway.observe.requests import RequestObserver

__all__ = ["SpanObserver", "Telemetry", "TracedGenerator", "start_telemetry", "wants_traces"]


Attributes = dict[str, Any]


class SpanObserver:
    """A `RequestObserver` that puts its figures on the request's span, which is the current one.

    Names are those of OpenTelemetry's conventions for generative AI and of vLLM where they exist.
    """

    def started(self) -> None:
        """Its span has been started by the web framework."""

    def gap(self, model: str, route: str, elapsed_s: float) -> None:
        """Not on spans: the histogram of /metrics has it."""

    def finished(self, request: Finished) -> None:
        """See `RequestObserver.finished`."""
        _put(
            trace.get_current_span(),
            {
                "gen_ai.operation.name": request.endpoint,
                "gen_ai.request.model": request.model,
                "gen_ai.response.id": request.request_id,
                "gen_ai.usage.input_tokens": request.prompt_tokens,
                "gen_ai.usage.output_tokens": request.completion_tokens,
                "gen_ai.latency.time_to_first_token": _seconds(request.figures.get("ttft_ms")),
                "pipesd.route": request.route,
                "pipesd.reason": request.reason,
                "pipesd.status": request.status,
                "pipesd.streamed": request.streamed,
                "error.type": request.error_code,
            },
        )


class TracedGenerator:
    """`generator` as it is, with a span for each generation. Implements `Generator`."""

    def __init__(self, generator: Generator, tracer: Tracer) -> None:
        self._generator = generator
        self._tracer = tracer

    async def target(self, *, offline: bool = False) -> TargetInfo:
        return await self._generator.target(offline=offline)

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        return await self._generator.tokenizer(offline=offline)

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """See `Generator.generate`. The span's parent is the one that is current now."""
        return self._generate(request, context.get_current())

    async def _generate(self, request: GenerationRequest, parent: Context) -> AsyncIterator[GenerationChunk]:
        span = self._tracer.start_span("generation", context=parent)
        _put(span, _asked(request))
        stats = GenerationStats()
        chunks = self._generator.generate(request)
        try:
            async for chunk in chunks:
                stats = chunk.stats
                yield chunk
        except Exception as error:
            _fail(span, error)
            raise
        finally:
            _put(span, _figures(stats))
            span.end()
            if (close := getattr(chunks, "aclose", None)) is not None:
                await close()  # a reader that leaves early ends the generation now

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """See `Generator.forward`. The span ends with the answer's headers: the request's has the rest."""
        span = self._tracer.start_span("forward")
        _put(span, {"url.path": path, "pipesd.route": "cloud"})
        try:
            answer = await self._generator.forward(path, body)
            _put(span, {"http.response.status_code": answer.status})
            return answer
        except Exception as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    async def health(self) -> dict[str, str]:
        return await self._generator.health()

    async def close(self) -> None:
        await self._generator.close()


def _asked(request: GenerationRequest) -> Attributes:
    return {
        "gen_ai.response.id": request.request_id,
        "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
        "gen_ai.request.max_tokens": request.sampling.max_tokens,
        "gen_ai.request.temperature": request.sampling.temperature,
        "gen_ai.request.top_p": request.sampling.top_p,
    }


def _figures(stats: GenerationStats) -> Attributes:
    return {
        "pipesd.route": str(stats.route),
        "pipesd.reason": stats.route_reason,
        "pipesd.verified": stats.verified,
        "gen_ai.usage.output_tokens": stats.completion_tokens,
        "gen_ai.latency.time_to_first_token": _seconds(stats.ttft_ms),
        "pipesd.tpt_ms": stats.tpt_ms,
        "pipesd.acceptance_rate": stats.acceptance_rate,
        "pipesd.target_passes": stats.target_passes,
        "pipesd.draft_tokens_sent": stats.draft_tokens_sent,
        "pipesd.draft_tokens_accepted": stats.draft_tokens_accepted,
        "pipesd.unverified_tokens": stats.unverified_tokens,
    }


def _fail(span: Span, error: Exception) -> None:
    """The kind of error alone: a message may quote what was asked."""
    span.set_status(StatusCode.ERROR, type(error).__name__)
    span.set_attribute("error.type", type(error).__name__)


def _put(span: Span, attributes: Attributes) -> None:
    """Those that are known."""
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _seconds(elapsed_ms: float | None) -> float | None:
    return None if elapsed_ms is None else elapsed_ms / 1e3


logger = logging.getLogger("pipesd.gateway")

_SERVICE: Final = "pipesd-gateway"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NOT_TRACED: Final = "/health$,/metrics$"
"""Asked for by machines, all the time."""
_NEEDS_EXTRA: Final = "traces need OpenTelemetry's packages: run `pip install 'pipesd[otel]'`"


class Telemetry:
    """Sends spans through `provider`, which it shuts down in `close`, in `close_s` seconds at most."""

    def __init__(self, provider: TracerProvider, close_s: float = 3.0) -> None:
        self._provider = provider
        self._close_s = close_s

    def traced(self, generator: Generator) -> Generator:
        """`generator` with a span for each generation and each request that is passed on."""

        return TracedGenerator(generator, self._provider.get_tracer("pipesd"))

    def observer(self) -> RequestObserver:
        """Puts what is known of a finished request on its span."""

        return SpanObserver()

    def instrument(self, app: FastAPI) -> None:
        """A span for each request to `app`, which has not been started; a client's trace goes on in it."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        # Without a span for each piece of a stream: those would cost more than the gateway itself.
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._provider,
            excluded_urls=_NOT_TRACED,
            exclude_spans=["receive", "send"],
        )

    async def close(self) -> None:
        """Send what has not been sent; a collector that does not answer is given up soon."""
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
