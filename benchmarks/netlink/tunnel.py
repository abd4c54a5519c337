"""Full emulation: edge and server in network namespaces of their own, real IP packets relayed in between."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

import msgspec

from benchmarks.netlink.namespaces import added_namespace, entered_namespace, ip, remove_stale
from benchmarks.netlink.relay import Command, Configure, RelayCounts
from benchmarks.netlink.tun import open_tun
from openai_gateway.cli.errors import CliError

__all__ = ["TunPath", "tun_path", "why_not"]

_EDGE_ADDRESS: Final = "10.77.0.1"
_SERVER_ADDRESS: Final = "10.77.0.2"
_CONGESTION_CONTROL: Final = "cubic"
_QUEUE_PACKETS: Final = "2000"  # the queue that counts is the relay's
_END_S: Final = 5.0
_numbers = itertools.count(1)


class TunPath:
    """An `EmulatedPath`; made by `tun_path`."""

    description = (
        "two network namespaces joined by TUN devices: delay, jitter, rate, queue and loss on real IP "
        f"packets (MTU 1500, TCP {_CONGESTION_CONTROL})"
    )
    server_host = _SERVER_ADDRESS

    def __init__(self, server_namespace: str, relay: subprocess.Popen[bytes]) -> None:
        self.server_prefix = ("ip", "netns", "exec", server_namespace)
        self._relay = relay

    async def reach(self, port: int) -> str:
        return f"{self.server_host}:{port}"

    def configure(self, configure: Configure) -> None:
        self._command(Command(configure))

    def counts(self) -> RelayCounts:
        return self._command(Command())

    def _command(self, command: Command) -> RelayCounts:
        commands, answers = _pipes(self._relay)
        try:
            commands.write(msgspec.json.encode(command) + b"\n")
            commands.flush()
            return msgspec.json.decode(answers.readline(), type=RelayCounts)
        except (OSError, msgspec.DecodeError) as error:
            raise CliError("The link emulation has stopped.") from error


def why_not() -> str | None:
    """Why there can be no TUN path here; None if there can."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "it needs /dev/net/tun"
    try:
        remove_stale()
        os.close(open_tun(f"pb{os.getpid()}t"))
    except (OSError, CliError) as error:
        return str(error)
    return None


@contextmanager
def tun_path() -> Iterator[TunPath]:
    """The path, with this thread (and what it starts) in the edge's namespace. Raises `CliError`, `OSError`.

    The namespaces go in the end. Those of a run that was killed go when the next one begins; its relay
    ends by itself, as the pipe to it breaks.
    """
    remove_stale()
    with (
        added_namespace("edge") as edge,
        added_namespace("server") as server,
        _relay_between(edge, server) as relay,
        entered_namespace(edge),
    ):
        yield TunPath(server, relay)


@contextmanager
def _relay_between(edge: str, server: str) -> Iterator[subprocess.Popen[bytes]]:
    number = next(_numbers)
    names = [f"pb{os.getpid()}-{number}{end}" for end in "es"]
    fds: list[int] = []
    try:
        fds.extend(map(open_tun, names))  # those opened before one fails are closed below
        _move(names[0], edge, _EDGE_ADDRESS, _SERVER_ADDRESS)
        _move(names[1], server, _SERVER_ADDRESS, _EDGE_ADDRESS)
        command = [sys.executable, "-m", "benchmarks.netlink.relay", *map(str, fds)]
        relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds)
    finally:
        for fd in fds:
            os.close(fd)
    try:
        yield relay
    finally:
        commands, answers = _pipes(relay)
        commands.close()
        answers.close()
        try:
            relay.wait(_END_S)
        except subprocess.TimeoutExpired:
            relay.kill()
            relay.wait()


def _move(device: str, namespace: str, address: str, peer: str) -> None:
    ip("link", "set", device, "netns", namespace)
    ip("-n", namespace, "address", "add", address, "peer", peer, "dev", device)
    ip("-n", namespace, "link", "set", device, "txqueuelen", _QUEUE_PACKETS, "up")
    # By route, because the namespace's default may only be one that the whole machine allows to anybody.
    ip("-n", namespace, "route", "replace", peer, "dev", device, "congctl", _CONGESTION_CONTROL)


def _pipes(relay: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert relay.stdin is not None
    assert relay.stdout is not None
    return relay.stdin, relay.stdout
