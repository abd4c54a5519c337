"""The relay, first as a value on a clock of the test's own, then as a loop over descriptors."""

import os
import socket
import threading

import msgspec

from benchmarks.netlink.model import LinkCounts
from benchmarks.netlink.relay import Command, Configure, Relay, RelayCounts, run_relay
from benchmarks.netlink.spec import LinkSpec, PathSpec


def test_holds_packets_until_they_are_due() -> None:
    """Each direction has its own delay, and packets leave in the order in which they are due."""
    relay = Relay(100.0)
    relay.configure(Configure(PathSpec(LinkSpec(delay_ms=20), LinkSpec(delay_ms=5))), 100.0)
    relay.offer(0, b"up", 100.0)
    relay.offer(1, b"down", 100.001)
    assert relay.due(100.0) == []
    assert relay.next_s() is not None
    assert relay.due(100.01) == [(1, b"down")]
    assert relay.due(100.03) == [(0, b"up")]
    assert relay.next_s() is None
    assert relay.counts == RelayCounts(LinkCounts(1, 2, 0), LinkCounts(1, 4, 0))


def test_starts_into_the_trace() -> None:
    """`elapsed_s` decides which rate of a trace comes first."""
    relay = Relay(0.0)
    spec = LinkSpec(mbit_trace=(8.0, 80.0), trace_step_s=10.0)
    relay.configure(Configure(PathSpec(spec, LinkSpec()), elapsed_s=10.0), 5.0)
    relay.offer(0, bytes(100_000), 5.0)
    assert relay.due(5.009) == []
    assert len(relay.due(5.011)) == 1


def test_relays_between_descriptors() -> None:
    """Packets cross whole in both directions, commands are answered, and the end of stdin ends it."""
    edge, edge_relay = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    server, server_relay = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    thread = threading.Thread(
        target=run_relay, args=(edge_relay.fileno(), server_relay.fileno(), in_read, out_write)
    )
    thread.start()
    try:
        with open(out_read, "rb") as answers, open(in_write, "wb") as commands:
            configure = Command(Configure(PathSpec(LinkSpec(delay_ms=1), LinkSpec(delay_ms=1))))
            commands.write(msgspec.json.encode(configure) + b"\n")
            commands.flush()
            assert msgspec.json.decode(answers.readline(), type=RelayCounts).up.num_packets == 0
            edge.send(b"there")
            assert server.recv(100) == b"there"
            server.send(b"and back")
            assert edge.recv(100) == b"and back"
            commands.write(msgspec.json.encode(Command()) + b"\n")
            commands.flush()
            assert msgspec.json.decode(answers.readline(), type=RelayCounts).down.num_bytes == 8
    finally:
        thread.join(30)
        for end in (edge, edge_relay, server, server_relay):
            end.close()
        os.close(in_read)
        os.close(out_write)
    assert not thread.is_alive()
