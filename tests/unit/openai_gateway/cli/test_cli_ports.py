"""Ports: a busy one is named, a free one is found."""

from __future__ import annotations

import socket

import pytest

from openai_gateway.cli.errors import CliError, PortInUse
from openai_gateway.cli.processes import bind_listener, free_port


def test_busy_port_is_named() -> None:
    """A port that somebody listens on gives one sentence with the port and the flag."""
    with bind_listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"^Port {port} on .* is in use: choose another with --port\.$"):
            bind_listener("127.0.0.1", port)


def test_listener_accepts_at_once() -> None:
    """Clients can connect as soon as the listener is bound."""
    with bind_listener("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=30).close()


def test_free_port_is_free() -> None:
    """The port can be bound right away."""
    port = free_port()
    with bind_listener("127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port


def test_address_of_another_machine() -> None:
    """An address that is not this machine's gives a sentence that names --host."""
    with pytest.raises(CliError, match=r"^Cannot listen on 192\.0\.2\.1 .*--host\.$"):
        bind_listener("192.0.2.1", 0)
