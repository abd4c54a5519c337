"""HTTP statuses of the verifier, or of a proxy before it, as the agent's errors."""

from __future__ import annotations

import time

from edge_agent.errors import CloudError, CloudOverloaded, CloudRefused, CloudUnreachable
from edge_agent.verifier.retry import retry_after_s

__all__ = ["error_from_status"]


def error_from_status(base: str, path: str, status: int, retry_after: str | None) -> CloudError:
    """What an answer other than the wanted one means. `base`: the verifier's URL; `retry_after`: a header."""
    if status in (401, 403):
        return CloudRefused("invalid_api_key", f"{base} refused the API key; check --api-key")
    if status == 404:
        return CloudRefused(
            "no_pipesd", f"{base} is a server without the pipesd plugin; start it with 'pipesd serve'"
        )
    after_s = retry_after_s(retry_after, time.time())
    if status == 429:
        return CloudOverloaded(f"{base} has too many sessions; try again in some seconds", after_s)
    return CloudUnreachable(f"{base}{path} answered HTTP {status}", after_s)
