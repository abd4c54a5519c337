"""What a verifier says of one turn, until the answer is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from edge_agent.api import FinishReason
from edge_agent.errors import CloudUnreachable
from edge_agent.session.control import CommitReceived
from edge_agent.verifier.connection import CloudConnection
from edge_agent.verifier.keepalive import LineWatch

__all__ = ["commits"]

_ENDS: Final = frozenset(FinishReason)
"""Finish reasons of a whole answer; any other ("abort": the server shuts down) leaves it unfinished."""


async def commits(
    watch: LineWatch, connection: CloudConnection, turn: int, num_sent: int, clock: Callable[[], float]
) -> AsyncIterator[CommitReceived]:
    """Those of `turn`, the last one with its finish reason; `num_sent`: bytes that are under way up.

    Raises `CloudError`, `CloudUnreachable` among them if the server ends the turn before the answer is whole.
    """
    while True:
        commit, num_bytes = await watch.receive(connection, turn, num_sent)
        num_sent = 0
        reason = commit.finish_reason
        if reason is not None and reason not in _ENDS:
            commit = msgspec.structs.replace(commit, finish_reason=None)
        yield CommitReceived(commit, num_bytes, clock())
        if commit.finish_reason is not None:
            return
        if reason is not None:
            raise CloudUnreachable(f"the verifier left the answer unfinished ({reason}); try again")
