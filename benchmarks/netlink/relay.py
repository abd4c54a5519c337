"""Carries packets between two devices through the link models; `python -m benchmarks.netlink.relay FD FD`.

The first file descriptor is the edge's device, the second the server's; each read is one packet. Lines
of JSON on stdin are `Configure` commands (or empty objects), each answered on stdout by the
`RelayCounts` so far. The end of stdin ends the relay.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import selectors
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from benchmarks.netlink.model import UNSHAPED, LinkCounts, LinkModel, PathSpec

__all__ = ["Command", "Configure", "EmulatedPath", "Relay", "RelayCounts", "run_relay"]

_LARGEST_PACKET: Final = 1 << 16
_REALTIME_PRIORITY: Final = 1


class Configure(msgspec.Struct, frozen=True):
    """Start the path anew, `elapsed_s` into its traces and blackholes. Packets under way are kept."""

    path: PathSpec
    seed: int = 0
    elapsed_s: float = 0.0


class Command(msgspec.Struct, frozen=True):
    """Nothing to configure: only the counts are wanted."""

    configure: Configure | None = None


class RelayCounts(msgspec.Struct, frozen=True):
    """Since the last `Configure`."""

    up: LinkCounts
    down: LinkCounts


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


class Relay:
    """Decides for both directions what is due when. Times on the caller's clock, in seconds."""

    def __init__(self, now_s: float) -> None:
        self._held: list[tuple[float, int, int, bytes]] = []
        self._num_held = 0
        self.configure(Configure(UNSHAPED), now_s)

    def configure(self, configure: Configure, now_s: float) -> None:
        """See `Configure`."""
        self._epoch_s = now_s - configure.elapsed_s
        rng = random.Random(configure.seed)
        path = configure.path
        self._models = [LinkModel(spec, random.Random(rng.random())) for spec in (path.up, path.down)]

    @property
    def counts(self) -> RelayCounts:
        return RelayCounts(self._models[0].counts, self._models[1].counts)

    def offer(self, direction: int, packet: bytes, now_s: float) -> None:
        """A packet enters: direction 0 from the edge, 1 from the server."""
        arrival_s = self._models[direction].offer(now_s - self._epoch_s, len(packet))
        if arrival_s is not None:
            self._num_held += 1  # breaks ties in the order of arrival
            heapq.heappush(self._held, (arrival_s + self._epoch_s, self._num_held, direction, packet))

    def due(self, now_s: float) -> list[tuple[int, bytes]]:
        """The packets that leave now, with their direction."""
        out = []
        while self._held and self._held[0][0] <= now_s:
            _, _, direction, packet = heapq.heappop(self._held)
            out.append((direction, packet))
        return out

    def next_s(self) -> float | None:
        """When the next packet is due; None while there is none."""
        return self._held[0][0] if self._held else None


def run_relay(
    edge_fd: int, server_fd: int, in_fd: int, out_fd: int, clock: Callable[[], float] = time.monotonic
) -> None:
    """Relay until `in_fd` ends."""
    fds = (edge_fd, server_fd)
    relay = Relay(clock())
    lines = _Lines(in_fd)
    with selectors.DefaultSelector() as selector:
        for fd in (*fds, in_fd):
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while not lines.ended:
            due_s = relay.next_s()
            ready = selector.select(None if due_s is None else max(0.0, due_s - clock()))
            for key, _ in ready:
                if key.fd == in_fd:
                    _obey(relay, lines, out_fd, clock)
                else:
                    _take(relay, key.fd, fds.index(key.fd), clock)
            for direction, packet in relay.due(clock()):
                with contextlib.suppress(OSError):  # a device that is going down
                    os.write(fds[1 - direction], packet)


def _take(relay: Relay, fd: int, direction: int, clock: Callable[[], float]) -> None:
    with contextlib.suppress(OSError):  # nothing left to read, or a device that is going down
        while packet := os.read(fd, _LARGEST_PACKET):
            relay.offer(direction, packet, clock())


def _obey(relay: Relay, lines: _Lines, out_fd: int, clock: Callable[[], float]) -> None:
    for line in lines.read():
        counts = relay.counts
        command = msgspec.json.decode(line, type=Command)
        if command.configure is not None:
            relay.configure(command.configure, clock())
        os.write(out_fd, msgspec.json.encode(counts) + b"\n")


class _Lines:
    """Whole lines out of a descriptor that does not block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self.ended = False

    def read(self) -> list[bytes]:
        data = os.read(self._fd, _LARGEST_PACKET)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


def main() -> None:
    """See the module."""
    with contextlib.suppress(OSError, AttributeError):  # allowed to root; late packets without
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_REALTIME_PRIORITY))
    run_relay(int(sys.argv[1]), int(sys.argv[2]), sys.stdin.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
