"""Start-up probes of the link; after them the monitor only listens (PipeSD, section 3.2)."""

from __future__ import annotations

from typing import Final

from edge_agent.control import EnvironmentMonitor
from edge_agent.verifier.connection import CloudConnection

_NUM_EMPTY_PINGS: Final = 3
_PROBE_TOKENS: Final = range(1, 9)
_FRAME_BYTES: Final = 12
"""A draft frame without its tokens (docs/protocol.md)."""
_TOKEN_BYTES: Final = 3


async def probe_link(connection: CloudConnection, monitor: EnvironmentMonitor) -> None:
    """Time pings as large as draft frames of 1 to 8 tokens; eleven round trips. Raises `CloudError`.

    A WebSocket ping is answered by the server's protocol layer: no queue, no step. The answer echoes
    the payload, so until live rounds outnumber the probes beta holds both directions.
    """
    for _ in range(_NUM_EMPTY_PINGS):
        monitor.on_round_trip(await connection.ping(8))
    for num_tokens in _PROBE_TOKENS:
        elapsed_s = await connection.ping(_FRAME_BYTES + _TOKEN_BYTES * num_tokens)
        monitor.on_verify_round(num_tokens, elapsed_s, queue_s=0.0, step_s=0.0)
