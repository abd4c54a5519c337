"""The seam between the testbed and the way its traffic is made slow."""

from __future__ import annotations

from typing import Protocol

from benchmarks.netlink.relay import Configure, RelayCounts

__all__ = ["EmulatedPath"]


class EmulatedPath(Protocol):
    """An open path from the edge, which is this process, to a server that it is told about."""

    @property
    def description(self) -> str:
        """What emulates, in words for the report."""
        ...

    @property
    def server_host(self) -> str:
        """Address that server processes listen on."""
        ...

    @property
    def server_prefix(self) -> tuple[str, ...]:
        """What goes before the command line of a server process."""
        ...

    async def reach(self, port: int) -> str:
        """`host:port` that leads the edge over the path to `port` of the server's host."""
        ...

    def configure(self, configure: Configure) -> None:
        """Start the path anew, for instance with other rates."""
        ...

    def counts(self) -> RelayCounts:
        """What the path carried since it was configured."""
        ...
