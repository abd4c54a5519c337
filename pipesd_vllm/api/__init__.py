"""The server's side of a session: routes, WebSocket, turns.

`PipeSDEndpoint` is imported when it is first asked for, because it brings vLLM with it.
"""

from typing import TYPE_CHECKING, Any

from pipesd_vllm.api.metrics import ServerMetrics

if TYPE_CHECKING:
    from pipesd_vllm.api.endpoint import PipeSDEndpoint

__all__ = ["PipeSDEndpoint", "ServerMetrics"]


def __getattr__(name: str) -> Any:
    if name == "PipeSDEndpoint":
        from pipesd_vllm.api.endpoint import PipeSDEndpoint

        return PipeSDEndpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
