"""What operators see of requests: metrics, the log, and traces (`telemetry`, imported only if asked for)."""

from openai_gateway.observe.metrics import GatewayMetrics, metrics_router
from openai_gateway.observe.request_log import RequestLog
from openai_gateway.observe.requests import Finished, RequestObserver
from openai_gateway.observe.service import ObservedService

__all__ = [
    "Finished",
    "GatewayMetrics",
    "ObservedService",
    "RequestLog",
    "RequestObserver",
    "metrics_router",
]
