"""OpenTelemetry spans of requests and generations. Needs OpenTelemetry's packages, which are optional."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, Tracer

from edge_agent.api import (
    AnswerEvent,
    AnswerHead,
    AskRequest,
    ForwardedAnswer,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Generator,
    TargetInfo,
    TokenizerBundle,
)
from openai_gateway.local import CHAT
from openai_gateway.observe.requests import Finished

__all__ = ["SpanObserver", "TracedGenerator"]

Attributes = dict[str, Any]
_EventT = TypeVar("_EventT", bound=AnswerEvent)


class SpanObserver:
    """A `RequestObserver` that puts statistics on the request's span, which is the current one.

    Names are those of OpenTelemetry's conventions for generative AI and of vLLM where they exist.
    """

    def started(self) -> None:
        """Nothing to do: the web framework has started the span."""

    def gap(self, model: str, route: str, elapsed_s: float) -> None:
        """Nothing to do: gaps are in the histogram of /metrics, not on spans."""

    def finished(self, request: Finished) -> None:
        """See `RequestObserver.finished`."""
        _put(
            trace.get_current_span(),
            {
                "gen_ai.operation.name": request.endpoint,
                "gen_ai.request.model": request.model,
                "gen_ai.response.id": request.answer_id,
                "gen_ai.usage.input_tokens": request.prompt_tokens,
                "gen_ai.usage.output_tokens": request.completion_tokens,
                "gen_ai.latency.time_to_first_token": _seconds(request.stats.get("ttft_ms")),
                "pipesd.route": request.route,
                "pipesd.reason": request.reason,
                "pipesd.status": request.status,
                "pipesd.streamed": request.streamed,
                "error.type": request.error_code,
            },
        )


class TracedGenerator:
    """Passes calls to `generator`, with a span for each generation. Implements `Generator`."""

    def __init__(self, generator: Generator, tracer: Tracer) -> None:
        self._generator = generator
        self._tracer = tracer

    async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
        return await self._generator.target(offline=offline, max_age_s=max_age_s)

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        return await self._generator.tokenizer(offline=offline)

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """See `Generator.generate`. The span's parent is the one that is current now."""
        return self._traced(self._generator.generate(request), _generated(request), context.get_current())

    def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        """See `Generator.ask`. The span's parent is the one that is current now."""
        prefix = "chatcmpl-" if request.path == CHAT.path else "cmpl-"  # as vLLM names its answers
        asked = {"gen_ai.response.id": prefix + request.request_id, "url.path": request.path}
        return self._traced(self._generator.ask(request), asked, context.get_current())

    async def _traced(
        self, events: AsyncIterator[_EventT], asked: Attributes, parent: Context
    ) -> AsyncIterator[_EventT]:
        span = self._tracer.start_span("generation", context=parent)
        _put(span, asked)
        stats = GenerationStats()
        try:
            async for event in events:
                if isinstance(event, GenerationChunk | AnswerHead):
                    stats = event.stats
                yield event
        except Exception as error:
            _fail(span, error)
            raise
        finally:
            _put(span, _stats(stats))
            span.end()
            if (close := getattr(events, "aclose", None)) is not None:
                await close()  # a reader that leaves early ends the generation now

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """See `Generator.forward`. The span ends with the answer's headers; the request's goes on."""
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


def _generated(request: GenerationRequest) -> Attributes:
    return {
        "gen_ai.response.id": request.request_id,
        "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
        "gen_ai.request.max_tokens": request.sampling.max_tokens,
        "gen_ai.request.temperature": request.sampling.temperature,
        "gen_ai.request.top_p": request.sampling.top_p,
    }


def _stats(stats: GenerationStats) -> Attributes:
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
    """Record only the kind of `error`: its message may quote the request."""
    span.set_status(StatusCode.ERROR, type(error).__name__)
    span.set_attribute("error.type", type(error).__name__)


def _put(span: Span, attributes: Attributes) -> None:
    """Set the attributes that are known."""
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _seconds(elapsed_ms: float | None) -> float | None:
    return None if elapsed_ms is None else elapsed_ms / 1e3
