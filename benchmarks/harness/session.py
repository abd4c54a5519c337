"""The session protocol over a bare connection: nothing of the edge agent, nothing tolerated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from edge_agent.errors import CloudMisbehaved, CloudRefused
from edge_agent.verifier.transport import Connector, Transport
from pipesd_vllm.wire import Commit, Refused, Welcome

__all__ = ["next_commit", "opened", "welcome"]

_DEADLINE_S: Final = 120.0
"""Far beyond what any pass takes."""


@asynccontextmanager
async def opened(connector: Connector) -> AsyncIterator[Transport]:
    """A connection, closed in the end. Raises `CloudError`."""
    transport = await connector.connect()
    try:
        yield transport
    finally:
        await transport.close()


async def welcome(transport: Transport) -> Welcome:
    """The greeting of a new connection. Raises `CloudError`."""
    message, _ = await transport.receive()
    if not isinstance(message, Welcome):
        raise CloudMisbehaved("the server did not introduce itself first")
    return message


async def next_commit(transport: Transport, turn: int = 1) -> Commit:
    """The next commit of `turn` that says something. Raises `CloudError`, also where none comes."""
    while True:
        try:
            message, _ = await asyncio.wait_for(transport.receive(), _DEADLINE_S)
        except TimeoutError:
            raise CloudMisbehaved(f"a session stood still for {_DEADLINE_S:.0f} s") from None
        if isinstance(message, Refused):
            raise CloudRefused(str(message.code), message.message)
        if isinstance(message, Commit) and message.turn == turn and (message.tokens or message.finish_reason):
            return message
