"""Counts on an agent's connections what its own figures do not tell."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.transport import Connector, Transport
from pipesd_vllm.protocol import Commit, Downstream, Upstream

__all__ = ["CommitCounter", "TappedConnector"]


@dataclass(slots=True)
class CommitCounter:
    """Running totals over all connections."""

    num_nav: int = 0
    """Commits of passes that checked drafts."""
    busy_s: float = 0.0
    """Engine steps, as the commits tell."""

    def take(self, message: Downstream) -> None:
        if isinstance(message, Commit):
            self.num_nav += message.drafted > 0
            self.busy_s += message.step_ms / 1e3


class TappedConnector:
    """A `Connector` whose connections report to `counter`."""

    def __init__(self, inner: Connector, counter: CommitCounter) -> None:
        self._inner = inner
        self._counter = counter

    async def connect(self) -> Transport:
        return _TappedTransport(await self._inner.connect(), self._counter)


class _TappedTransport:
    def __init__(self, inner: Transport, counter: CommitCounter) -> None:
        self._inner = inner
        self._counter = counter

    async def send(self, message: Upstream) -> int:
        return await self._inner.send(message)

    async def receive(self) -> tuple[Downstream, int]:
        message, num_bytes = await self._inner.receive()
        self._counter.take(message)
        return message, num_bytes

    async def ping(self, num_bytes: int) -> float:
        return await self._inner.ping(num_bytes)

    @property
    def is_open(self) -> bool:
        return self._inner.is_open

    async def close(self) -> None:
        await self._inner.close()
