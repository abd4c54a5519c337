"""The seam between the session and the network. `edge_agent.testing` has a transport without a network."""

from __future__ import annotations

from typing import Protocol

from pipesd_vllm.wire import Downstream, Upstream


class Transport(Protocol):
    """One established connection; frames arrive whole and in order."""

    async def send(self, message: Upstream) -> int:
        """Send one frame; returns its size in bytes, framing included. Raises `CloudUnreachable`."""
        ...

    async def receive(self) -> tuple[Downstream, int]:
        """The next frame and its size in bytes.

        Raises `CloudUnreachable` when the connection has ended, `CloudMisbehaved` for a
        frame that is not in the protocol.
        """
        ...

    async def ping(self, num_bytes: int) -> float:
        """Seconds until a ping with a payload of `num_bytes` (8 to 125) is answered.

        Raises `CloudUnreachable`.
        """
        ...

    @property
    def is_open(self) -> bool:
        """Whether a send may still succeed."""
        ...

    async def close(self) -> None:
        """Idempotent; never raises."""
        ...


class Connector(Protocol):
    """Makes connections to one verifier."""

    async def connect(self) -> Transport:
        """Raises `CloudUnreachable` (with what to do) or `CloudRefused` (for a wrong key)."""
        ...
