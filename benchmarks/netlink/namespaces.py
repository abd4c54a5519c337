"""Network namespaces by name, removed in the end and, if a run was killed, by the next one. Linux, root."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from openai_gateway.cli.errors import CliError

__all__ = ["added_namespace", "entered_namespace", "ip", "is_stale", "remove_stale"]

_NAME: Final = re.compile(r"pipesd-(\d+)-\d+-\w+")
_CLONE_NEWNET: Final = 0x40000000
_numbers = itertools.count(1)


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


def remove_stale() -> None:
    """Delete the namespaces of runs that were killed. Raises `CliError`."""
    for line in ip("netns", "list").splitlines():
        name = line.split(" ")[0]
        if is_stale(name, lambda pid: Path(f"/proc/{pid}").exists()):
            ip("netns", "delete", name)


@contextmanager
def added_namespace(role: str) -> Iterator[str]:
    """The name of a new namespace with its loopback up. Raises `CliError`."""
    name = f"pipesd-{os.getpid()}-{next(_numbers)}-{role}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)


@contextmanager
def entered_namespace(name: str) -> Iterator[None]:
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
