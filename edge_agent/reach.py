"""How long to try a verifier that did not answer last time."""

from __future__ import annotations

import asyncio

from edge_agent.errors import CloudUnreachable
from edge_agent.transport import Connector, Transport

__all__ = ["RETRY_TIMEOUT_S", "ImpatientConnector"]

RETRY_TIMEOUT_S = 1.0
"""A network that swallows packets must not cost each request the whole connect timeout."""


class ImpatientConnector:
    """A `Connector` that gives up sooner while the last attempt failed."""

    def __init__(self, connector: Connector, retry_timeout_s: float = RETRY_TIMEOUT_S) -> None:
        self._connector = connector
        self._retry_timeout_s = retry_timeout_s
        self._away = False

    async def connect(self) -> Transport:
        try:
            async with asyncio.timeout(self._retry_timeout_s if self._away else None):
                transport = await self._connector.connect()
        except TimeoutError:
            raise CloudUnreachable("the verifier still does not answer") from None
        except CloudUnreachable:
            self._away = True
            raise
        self._away = False
        return transport
