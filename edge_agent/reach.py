"""How long to try a verifier that did not answer last time, and when to try again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from edge_agent.errors import CloudUnreachable
from edge_agent.transport import Connector, Transport

__all__ = ["RETRY_TIMEOUT_S", "WAIT_DELAY_S", "ImpatientConnector", "Patience", "resume_delays"]

RETRY_TIMEOUT_S = 1.0
"""A network that swallows packets must not cost each request the whole connect timeout."""
WAIT_DELAY_S = 0.5
"""Pause between attempts that have no end."""
_RESUME_DELAYS_S = (0.1, 0.5, 1.0)


def resume_delays(*, without_end: bool) -> Iterator[float]:
    """Pauses in seconds, one before each attempt to resume a turn on a fresh connection."""
    yield from _RESUME_DELAYS_S
    while without_end:
        yield WAIT_DELAY_S


class Patience:
    """The time for the next attempt: `full_s`, but `retry_s` after a failure.

    A distant verifier may need more than `retry_s`, so each attempt for which it was too little doubles it,
    up to `full_s`; if that was too little as well, it starts over. `full_s` None: attempts end by themselves.
    """

    def __init__(self, full_s: float | None = None, retry_s: float = RETRY_TIMEOUT_S) -> None:
        self._full_s = full_s
        self._retry_s = retry_s if full_s is None else min(retry_s, full_s)
        self.limit_s = full_s

    def succeeded(self) -> None:
        """The verifier is there."""
        self.limit_s = self._full_s

    def failed(self) -> None:
        """The attempt came to its own end."""
        self.limit_s = self._retry_s

    def ran_out(self, limit_s: float | None) -> None:
        """The attempt was given up after `limit_s`, the limit when it began."""
        if limit_s is None or limit_s == self._full_s:
            self.failed()
        else:
            self.limit_s = 2 * limit_s if self._full_s is None else min(2 * limit_s, self._full_s)


class ImpatientConnector:
    """A `Connector` that gives up sooner while the last attempt failed; see `Patience`."""

    def __init__(self, connector: Connector, retry_timeout_s: float = RETRY_TIMEOUT_S) -> None:
        self._connector = connector
        self._patience = Patience(retry_s=retry_timeout_s)

    async def connect(self) -> Transport:
        limit_s = self._patience.limit_s
        try:
            async with asyncio.timeout(limit_s):
                transport = await self._connector.connect()
        except TimeoutError:
            self._patience.ran_out(limit_s)
            raise CloudUnreachable("the verifier still does not answer") from None
        except CloudUnreachable:
            self._patience.failed()
            raise
        self._patience.succeeded()
        return transport
