"""The emulated path: the link's model on a clock of the test's own, the relay, and the proxy."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.netlink.model import Carried, Configure, LinkModel, Links, LinkSpec, PathSpec
from benchmarks.netlink.proxy import delayed_link, proxy_path
from benchmarks.netlink.relay import run_relay
from benchmarks.netlink.tunnel import is_stale


def link(seed: int = 0, **fields: object) -> LinkModel:
    return LinkModel(LinkSpec(**fields), random.Random(seed))  # type: ignore[arg-type]


def test_delay_alone() -> None:
    """Without a rate a packet takes the delay, whatever it weighs."""
    model = link(delay_ms=25)
    assert model.offer(1.0, 1500) == pytest.approx(1.025)
    assert model.offer(1.0, 9) == pytest.approx(1.025)


def test_packets_queue_behind_each_other() -> None:
    """At 12 kbit a millisecond a packet of 1500 bytes takes 1 ms, and the next begins after it."""
    model = link(mbit=12, delay_ms=10)
    assert [model.offer(0.0, 1500) for _ in range(3)] == pytest.approx([0.011, 0.012, 0.013])
    assert model.offer(5.0, 1500) == pytest.approx(5.011)


def test_a_full_queue_drops() -> None:
    """What finds more than the limit waiting is lost; later there is room again."""
    model = link(mbit=12, queue_kb=3)
    arrivals = [model.offer(0.0, 1500) for _ in range(4)]
    assert [arrival is None for arrival in arrivals] == [False, False, True, True]
    assert model.offer(0.002, 1500) == pytest.approx(0.003)


def test_loss_is_seeded() -> None:
    """The same seed loses the same packets, about as many as asked for."""
    lost = [
        [link_.offer(i, 100) is None for i in range(2000)] for link_ in (link(3, loss=0.1), link(3, loss=0.1))
    ]
    assert lost[0] == lost[1]
    assert 150 < sum(lost[0]) < 250


@pytest.mark.parametrize(
    ("start_s", "num_bytes", "arrival_s"), [(0.0, 500_000, 0.5), (0.5, 1_000_000, 1.05), (2.0, 500_000, 2.5)]
)
def test_trace_of_rates(start_s: float, num_bytes: int, arrival_s: float) -> None:
    """A packet that outlasts a step of the trace goes on at the next step's rate; the trace repeats."""
    model = link(mbit_trace=(8.0, 80.0), trace_step_s=1.0)
    assert model.offer(start_s, num_bytes) == pytest.approx(arrival_s)


def test_one_rate_only() -> None:
    """A constant rate and a trace contradict each other."""
    with pytest.raises(ValueError, match="not both"):
        LinkSpec(mbit=1.0, mbit_trace=(1.0,))


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(1, 3000)), max_size=50),
    st.floats(0.5, 100),
)
def test_never_reorders_and_never_early(packets: list[tuple[float, int]], mbit: float) -> None:
    """Packets arrive in the order they were sent, none before delay and transmission are over."""
    model = link(mbit=mbit, delay_ms=5)
    now_s, last_s = 0.0, 0.0
    for wait_s, num_bytes in packets:
        now_s += wait_s
        arrival_s = model.offer(now_s, num_bytes)
        assert arrival_s is not None
        assert arrival_s >= max(last_s, now_s + 0.005 + num_bytes * 8 / mbit / 1e6 - 1e-9)
        last_s = arrival_s


def test_each_direction_has_its_own_delay() -> None:
    """Packets are due on the caller's clock, and their bytes are counted by direction."""
    links = Links(100.0)
    links.configure(Configure(PathSpec(LinkSpec(delay_ms=20), LinkSpec(delay_ms=5))), 100.0)
    assert links.offer(0, 2, 100.0) == pytest.approx(100.02)
    assert links.offer(1, 4, 100.001) == pytest.approx(100.006)
    assert links.carried == Carried(2, 4)


def test_starts_into_the_trace() -> None:
    """`elapsed_s` decides which rate of a trace comes first."""
    links = Links(0.0)
    spec = LinkSpec(mbit_trace=(8.0, 80.0), trace_step_s=10.0)
    links.configure(Configure(PathSpec(spec, LinkSpec()), elapsed_s=10.0), 5.0)
    assert links.offer(0, 100_000, 5.0) == pytest.approx(5.01)


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
            configure = Configure(PathSpec(LinkSpec(delay_ms=1), LinkSpec(delay_ms=1)))
            commands.write(msgspec.json.encode(configure) + b"\n")
            commands.flush()
            assert msgspec.json.decode(answers.readline(), type=Carried).up_bytes == 0
            edge.send(b"there")
            assert server.recv(100) == b"there"
            server.send(b"and back")
            assert edge.recv(100) == b"and back"
            commands.write(msgspec.json.encode(None) + b"\n")
            commands.flush()
            assert msgspec.json.decode(answers.readline(), type=Carried).down_bytes == 8
    finally:
        thread.join(30)
        for end in (edge, edge_relay, server, server_relay):
            end.close()
        os.close(in_read)
        os.close(out_write)
    assert not thread.is_alive()


def test_only_those_of_the_dead_are_stale() -> None:
    """Neither foreign namespaces nor those of a run under way are touched."""
    names = ["pipesd-7-1-edge", "pipesd-8-1-server", "docker-7", "pipesd-x-1-edge"]
    assert [is_stale(name, lambda pid: pid == 8) for name in names] == [True, False, False, False]


async def test_delays_and_keeps_the_bytes() -> None:
    """Bytes come back unchanged, no sooner than delay and rate allow, and are counted."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(20_000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, proxy_path() as path:
        host, _, port = (await path.reach(server.sockets[0].getsockname()[1])).partition(":")
        spec = LinkSpec(delay_ms=10, mbit=8, loss=0.5)  # 20 kB take 20 ms; loss is left out
        path.configure(Configure(PathSpec(spec, spec)))
        reader, writer = await asyncio.open_connection(host, int(port))
        sent = bytes(range(250)) * 80
        started_s = time.monotonic()
        writer.write(sent)
        assert await reader.readexactly(20_000) == sent
        assert time.monotonic() - started_s >= 0.04
        assert path.carried() == Carried(20_000, 20_000)
        writer.close()


async def test_a_closed_end_closes_the_other() -> None:
    """When the server hangs up, the client of a delayed link sees the end of the stream."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, delayed_link(f"http://127.0.0.1:{port}", rtt_s=0.01) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        assert await asyncio.wait_for(reader.read(), 10) == b"bye"
        writer.close()
