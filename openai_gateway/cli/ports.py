"""Ports to listen on."""

from __future__ import annotations

import errno
import socket

from openai_gateway.cli.errors import CliError, PortInUse

__all__ = ["bind_listener", "free_port"]


def bind_listener(host: str, port: int) -> socket.socket:
    """A bound, inheritable-by-nobody TCP socket; port 0 picks a free one.

    Raises `PortInUse`, and `CliError` for an address that is not this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _explained(error, host, port) from error
    return listener


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago. Somebody else may take it before you do."""
    with bind_listener(host, 0) as listener:
        return int(listener.getsockname()[1])


def _explained(error: OSError, host: str, port: int) -> CliError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(host, port)
    if error.errno == errno.EACCES:
        return CliError(f"Port {port} needs administrator rights: choose one above 1023 with --port.")
    reason = f"Cannot listen on {host} ({error.strerror})"
    return CliError(f"{reason}: name an address of this machine with --host.")
