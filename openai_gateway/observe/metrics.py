"""Prometheus metrics of the gateway: vLLM's names where vLLM has them, `pipesd_gateway_` for the rest.

Names and labels are listed in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPMethod
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from edge_agent.api import AWAY, BUSY, LOST, NOT_DRAFTED
from openai_gateway.http import HttpRequest
from openai_gateway.observe.requests import Finished
from openai_gateway.routing.routes import ASKED_FOR, BY_DEFAULT
from openai_gateway.target import TOO_OLD

__all__ = ["GatewayMetrics", "metrics_router"]

# Buckets of vLLM (vllm/v1/metrics/buckets.py), so that both sides fit into one picture.
_TTFT_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_GAP_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_LATENCY_BUCKETS: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0),
    *(50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_REASONS: Final = frozenset({BY_DEFAULT, ASKED_FOR, AWAY, BUSY, LOST, TOO_OLD})
_OF_MODEL: Final = ("model_name", "route")
_METHODS: Final = frozenset(HTTPMethod)


class GatewayMetrics:
    """Implements `RequestObserver` on a registry of its own or the given one."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._requests = self._counter(
            "pipesd_gateway_requests", "Requests that have ended.", "endpoint", "route", "reason", "status"
        )
        self._http = self._counter(
            "pipesd_gateway_http_requests",
            "HTTP requests, refused ones among them.",
            "method",
            "path",
            "status",
        )
        self._running = Gauge("vllm:num_requests_running", "Requests under way.", registry=self.registry)
        self._ttft = self._histogram(
            "vllm:time_to_first_token_seconds", "Time to first token.", _TTFT_BUCKETS
        )
        self._gaps = self._histogram(
            "vllm:inter_token_latency_seconds", "Time between two pieces of a stream.", _GAP_BUCKETS
        )
        self._tpot = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time of a request's tokens after the first.",
            _GAP_BUCKETS,
        )
        self._latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "Time of a complete answer.", _LATENCY_BUCKETS
        )
        self._prompt = self._counter("vllm:prompt_tokens", "Prompt tokens of complete answers.", *_OF_MODEL)
        self._generated = self._counter("vllm:generation_tokens", "Tokens generated.", *_OF_MODEL)
        self._unverified = self._counter(
            "pipesd_gateway_unverified_tokens", "Tokens shown that no target has seen.", *_OF_MODEL
        )
        self._sent = self._counter("pipesd_gateway_draft_tokens_sent", "Draft tokens uploaded.", *_OF_MODEL)
        self._verified = self._counter(
            "pipesd_gateway_draft_tokens_verified", "Draft tokens that the target checked.", *_OF_MODEL
        )
        self._accepted = self._counter(
            "pipesd_gateway_draft_tokens_accepted", "Draft tokens that the target agreed with.", *_OF_MODEL
        )
        self._passes = self._counter(
            "pipesd_gateway_target_passes", "Target forward passes of answers.", *_OF_MODEL
        )
        self._up = self._counter("pipesd_gateway_uplink_bytes", "Bytes sent to the verifier.", *_OF_MODEL)
        self._down = self._counter("pipesd_gateway_downlink_bytes", "Bytes from the verifier.", *_OF_MODEL)

    def answered(self, request: HttpRequest) -> None:
        """See `HttpWatcher.answered`."""
        # Any word can be a method: a label for each would be a client's to fill the memory with.
        method = request.method if request.method in _METHODS else "(other)"
        self._http.labels(method, request.path, str(request.status)).inc()

    def watch_link(self, rtt_s: Callable[[], float | None]) -> None:
        """Report the link's round trip, asked of `rtt_s` at each scrape; NaN while it is unknown."""
        gauge = Gauge(
            "pipesd_gateway_link_rtt_seconds",
            "Smoothed round trip to the verifier, its work excluded.",
            registry=self.registry,
        )
        gauge.set_function(lambda: float("nan") if (rtt := rtt_s()) is None else rtt)

    def started(self) -> None:
        """See `RequestObserver.started`."""
        self._running.inc()

    def gap(self, model: str, route: str, elapsed_s: float) -> None:
        """See `RequestObserver.gap`."""
        self._gaps.labels(model, route).observe(elapsed_s)

    def finished(self, request: Finished) -> None:
        """See `RequestObserver.finished`."""
        self._running.dec()
        labels = (request.endpoint, request.route, _reason(request), str(request.status))
        self._requests.labels(*labels).inc()
        if request.stats:
            self._count(request)

    def _count(self, request: Finished) -> None:
        of, stats = (request.model or "", request.route), request.stats
        for counter, amount in (
            (self._prompt, request.prompt_tokens),
            (self._generated, request.completion_tokens),
            (self._unverified, stats.get("unverified_tokens")),
            (self._sent, stats.get("draft_tokens_sent")),
            (self._verified, stats.get("draft_tokens_verified")),
            (self._accepted, stats.get("draft_tokens_accepted")),
            (self._passes, stats.get("target_passes")),
            (self._up, stats.get("uplink_bytes")),
            (self._down, stats.get("downlink_bytes")),
        ):
            counter.labels(*of).inc(amount or 0)
        if request.status == 200:
            self._latency.labels(*of).observe(request.duration_ms / 1e3)
        if (ttft_ms := stats.get("ttft_ms")) is not None:
            self._ttft.labels(*of).observe(ttft_ms / 1e3)
            self._observe_tpot(request, ttft_ms)

    def _observe_tpot(self, request: Finished, ttft_ms: float) -> None:
        """vLLM's definition excludes the first token; our TPT (the paper's) includes it."""
        tpt_ms, num_tokens = request.stats.get("tpt_ms"), request.completion_tokens
        if tpt_ms is not None and num_tokens > 1:
            after_first_s = max(0.0, tpt_ms * num_tokens - ttft_ms) / 1e3
            self._tpot.labels(request.model or "", request.route).observe(after_first_s / (num_tokens - 1))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _OF_MODEL, buckets=buckets, registry=self.registry)


def _reason(request: Finished) -> str:
    """A label with few values, none of which a client or server can choose."""
    if request.error_code is not None:
        return "error"
    if request.reason in _REASONS:
        return str(request.reason)
    return "parameter" if (request.reason or "").startswith(NOT_DRAFTED) else "other"


def metrics_router(registry: CollectorRegistry) -> APIRouter:
    """GET /metrics, which needs no key (as vLLM's), in the format that the scraper asks for."""
    router = APIRouter()

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router
