"""Full emulation: edge and server in network namespaces of their own, real IP packets relayed in between.

Linux, root. Namespaces are removed in the end and, if a run was killed, by the next one.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec

from benchmarks.netlink.model import Carried, Configure
from openai_gateway.cli.errors import CliError

__all__ = ["TunPath", "ip", "is_stale", "tun_path", "why_not"]

_EDGE_ADDRESS: Final = "10.77.0.1"
_SERVER_ADDRESS: Final = "10.77.0.2"
_CONGESTION_CONTROL: Final = "cubic"
_QUEUE_PACKETS: Final = "2000"  # the queue that counts is the relay's
_END_S: Final = 5.0
_NAME: Final = re.compile(r"pipesd-(\d+)-\d+-\w+")
_CLONE_NEWNET: Final = 0x40000000
_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_numbers = itertools.count(1)


class TunPath:
    """A path with privileges, used as `ProxyPath` is; made by `tun_path`."""

    description = (
        "two network namespaces joined by TUN devices: delay, rate, queue and loss on real IP "
        f"packets (MTU 1500, TCP {_CONGESTION_CONTROL})"
    )
    server_host = _SERVER_ADDRESS
    """Address that server processes listen on."""

    def __init__(self, server_namespace: str, relay: subprocess.Popen[bytes]) -> None:
        self.server_prefix = ("ip", "netns", "exec", server_namespace)
        """What goes before the command line of a server process."""
        self._relay = relay

    async def reach(self, port: int) -> str:
        """`host:port` that leads over the path to `port` of the server's host."""
        return f"{self.server_host}:{port}"

    def configure(self, configure: Configure) -> None:
        """Start the path anew, for instance with other rates."""
        self._command(configure)

    def carried(self) -> Carried:
        """Since it was configured."""
        return self._command(None)

    def _command(self, command: Configure | None) -> Carried:
        commands, answers = _pipes(self._relay)
        try:
            commands.write(msgspec.json.encode(command) + b"\n")
            commands.flush()
            return msgspec.json.decode(answers.readline(), type=Carried)
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
        _remove_stale()
        os.close(_open_tun(f"pb{os.getpid()}t"))
    except (OSError, CliError) as error:
        return str(error)
    return None


@contextmanager
def tun_path() -> Iterator[TunPath]:
    """The path, with this thread (and what it starts) in the edge's namespace. Raises `CliError`, `OSError`.

    The namespaces go in the end. Those of a run that was killed go when the next one begins; its relay
    ends by itself, as the pipe to it breaks.
    """
    _remove_stale()
    with (
        _added_namespace("edge") as edge,
        _added_namespace("server") as server,
        _relay_between(edge, server) as relay,
        _entered_namespace(edge),
    ):
        yield TunPath(server, relay)


@contextmanager
def _relay_between(edge: str, server: str) -> Iterator[subprocess.Popen[bytes]]:
    number = next(_numbers)
    names = [f"pb{os.getpid()}-{number}{end}" for end in "es"]
    fds: list[int] = []
    try:
        fds.extend(map(_open_tun, names))  # those opened before one fails are closed below
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


def ip(*arguments: str) -> str:
    """Run iproute2's `ip`; what it prints. Raises `CliError`."""
    command = ["ip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise CliError("The command `ip` is not installed (Debian: iproute2).") from error
    except subprocess.CalledProcessError as error:
        raise CliError(f"`{' '.join(command)}` failed: {error.stderr.strip()}") from error
    return done.stdout


def is_stale(name: str, is_alive: Callable[[int], bool]) -> bool:
    """Whether `name` is one of ours and the process that made it is gone."""
    match = _NAME.fullmatch(name)
    return match is not None and not is_alive(int(match[1]))


def _remove_stale() -> None:
    """Delete the namespaces of runs that were killed. Raises `CliError`."""
    for line in ip("netns", "list").splitlines():
        name = line.split(" ")[0]
        if is_stale(name, lambda pid: Path(f"/proc/{pid}").exists()):
            ip("netns", "delete", name)


@contextmanager
def _added_namespace(role: str) -> Iterator[str]:
    """The name of a new namespace with its loopback up. Raises `CliError`."""
    name = f"pipesd-{os.getpid()}-{next(_numbers)}-{role}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)


@contextmanager
def _entered_namespace(name: str) -> Iterator[None]:
    """This thread, and the threads and processes that it starts, live in `name` meanwhile."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open_tun(name: str) -> int:
    """A descriptor of the new device `name` (at most 15 characters), which goes when it is closed.

    The device may be moved to another namespace. Raises `OSError` without root or TUN.
    """
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd
