"""Carries packets between two devices through the link models; `python -m benchmarks.netlink.relay FD FD`.

The first file descriptor is the edge's device, the second the server's; each read is one packet. Lines
of JSON on stdin are `Configure` commands or null, each answered on stdout by what was `Carried` before.
The end of stdin ends the relay.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from benchmarks.netlink.model import Configure, Links

__all__ = ["run_relay"]

_LARGEST_PACKET: Final = 1 << 16
_REALTIME_PRIORITY: Final = 1


def run_relay(
    edge_fd: int, server_fd: int, in_fd: int, out_fd: int, clock: Callable[[], float] = time.monotonic
) -> None:
    """Relay until `in_fd` ends."""
    fds = (edge_fd, server_fd)
    links = Links(clock())
    held: list[tuple[float, int, int, bytes]] = []
    num_held, rest = 0, b""
    with selectors.DefaultSelector() as selector:
        for fd in (*fds, in_fd):
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(max(0.0, held[0][0] - clock()) if held else None):
                if key.fd == in_fd:
                    if not (data := os.read(in_fd, _LARGEST_PACKET)):
                        return
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        os.write(out_fd, msgspec.json.encode(links.carried) + b"\n")
                        if (configure := msgspec.json.decode(line, type=Configure | None)) is not None:
                            links.configure(configure, clock())
                    continue
                direction = fds.index(key.fd)
                with contextlib.suppress(OSError):  # nothing left to read, or a device that is going down
                    while packet := os.read(key.fd, _LARGEST_PACKET):
                        due_s = links.offer(direction, len(packet), clock())
                        if due_s is not None:
                            num_held += 1  # breaks ties in the order of arrival
                            heapq.heappush(held, (due_s, num_held, direction, packet))
            while held and held[0][0] <= clock():
                _, _, direction, packet = heapq.heappop(held)
                with contextlib.suppress(OSError):  # a device that is going down
                    os.write(fds[1 - direction], packet)


def main() -> None:
    """See the module."""
    with contextlib.suppress(OSError, AttributeError):  # allowed to root; late packets without
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_REALTIME_PRIORITY))
    run_relay(int(sys.argv[1]), int(sys.argv[2]), sys.stdin.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
