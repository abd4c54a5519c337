"""The emulated link with real packets; needs root and TUN devices."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.netlink.model import Configure, LinkSpec, PathSpec
from benchmarks.netlink.tunnel import TunPath, ip, tun_path, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no TUN link can be made here: {REASON}")

SERVER = """
import socket
with socket.create_server(("10.77.0.2", 7000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
"""
CLIENT = """
import socket, time
with socket.create_connection(("10.77.0.2", 7000), timeout=60) as connection:
    started = time.monotonic()
    connection.sendall(b"x")
    connection.recv(1)
    print(time.monotonic() - started)
"""


@pytest.fixture
def path() -> Iterator[TunPath]:
    with tun_path() as opened:
        yield opened


def test_round_trip_through_both_namespaces(path: TunPath) -> None:
    """A byte to the server's namespace and back takes the path's round trip, and its bytes are counted."""
    path.configure(Configure(PathSpec(LinkSpec(delay_ms=20), LinkSpec(delay_ms=30))))
    server = subprocess.Popen(
        [*path.server_prefix, sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        client = subprocess.run([sys.executable, "-c", CLIENT], capture_output=True, text=True, check=True)
        server.wait(60)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert float(client.stdout) >= 0.05
    carried = path.carried()
    assert carried.up_bytes >= 3 * 40
    assert carried.down_bytes >= 2 * 40


def test_nothing_is_left() -> None:
    """Namespaces and devices go with the path, and this thread is back where it was."""
    before = ip("-o", "link")
    with tun_path() as opened:
        name = opened.server_prefix[-1]
        assert name in ip("netns", "list")
        assert "pb" in ip("-o", "link")
    assert name not in ip("netns", "list")
    assert ip("-o", "link") == before
