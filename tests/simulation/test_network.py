"""TCP in memory: bytes in order, at the time that the path says, and its ways to fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from benchmarks.sim.log import EventLog
from benchmarks.sim.loop import VirtualLoop
from benchmarks.sim.network import Cut, Path, SimNetwork, SimTransport, Window
from benchmarks.sim.plan import LinkPlan, Side

DELAY_S = 0.01
FAST = 1e12


class End(asyncio.Protocol):
    """Notes what came, and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.data = b""
        self.times: list[float] = []
        self.lost: list[Exception | None] = []
        self.paused = 0
        self.ended = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.times.append(self.loop.time())

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.paused -= 1


class Net:
    """One path to one listening server."""

    def __init__(self, link: LinkPlan, service_s: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.network = SimNetwork(self.loop, EventLog(self.loop.time))
        self.path = Path("edge0", 0, link, random.Random(1))
        self.network.paths["edge0"] = self.path
        self.served: list[End] = []
        self.network.listen(0, self._serve, service_s)

    def _serve(self) -> End:
        self.served.append(End())
        return self.served[-1]

    async def connect(self) -> tuple[SimTransport, End, End]:
        transport, client = await self.network.connect(End, "edge0")
        await asyncio.sleep(2 * DELAY_S)
        assert isinstance(transport, SimTransport)
        assert isinstance(client, End)
        return transport, client, self.served[-1]

    def window(self, for_s: float, side: Side = Side.BOTH) -> Window:
        return Window(self.loop.time(), self.loop.time() + for_s, side)


def simulate(
    body: Callable[[Net], Awaitable[None]], link: LinkPlan | None = None, service_s: float = 0.0
) -> None:
    loop = VirtualLoop()

    async def main() -> None:
        await body(Net(link or LinkPlan(delay_s=DELAY_S, bytes_s=FAST), service_s))

    loop.run_until_complete(main())
    loop.close()
    assert loop.errors == []


def test_a_segment_takes_delay_and_rate() -> None:
    """1,000 bytes and 40 of headers at 104,000 bytes a second: 10 ms, and the way."""

    async def body(net: Net) -> None:
        transport, _, server = await net.connect()
        sent_s = net.loop.time()
        transport.write(b"x" * 1000)
        await asyncio.sleep(1.0)
        assert server.times == [pytest.approx(sent_s + 0.01 + DELAY_S)]

    simulate(body, LinkPlan(delay_s=DELAY_S, bytes_s=104_000.0))


def test_jitter_never_turns_the_order_round() -> None:
    """TCP delivers in order whatever single packets do."""

    async def body(net: Net) -> None:
        transport, client, server = await net.connect()
        expected = b""
        for number in range(200):
            piece = bytes([number])
            transport.write(piece)
            server.transport.write(piece)
            expected += piece
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)
        assert server.data == client.data == expected
        assert server.times == sorted(server.times)

    simulate(body, LinkPlan(delay_s=DELAY_S, bytes_s=FAST, jitter_s=0.05))


def test_a_lost_packet_comes_later() -> None:
    """What TCP sends again is a timeout late, and all behind it waits; without losses nothing is late."""

    async def body(net: Net) -> None:
        transport, _, server = await net.connect()
        began_s = net.loop.time()
        for _ in range(100):
            transport.write(b"x")
            await asyncio.sleep(1.0)
        late = [at_s - began_s - number - DELAY_S for number, at_s in enumerate(server.times)]
        losses.append(sum(each > 0.1 for each in late))
        assert server.data == b"x" * 100
        assert all(each == pytest.approx(0.0, abs=1e-6) or each >= 0.2 for each in late)

    losses: list[int] = []
    for loss in (0.0, 0.2):
        simulate(body, LinkPlan(delay_s=DELAY_S, bytes_s=FAST, loss=loss))
    assert losses[0] == 0
    assert 10 <= losses[1] <= 30


def test_the_uplinks_rate_changes() -> None:
    """1,000 bytes and 40 of headers take 10 ms, and 100 ms ten seconds later; the way back stays fast."""

    async def body(net: Net) -> None:
        transport, client, server = await net.connect()
        for _ in range(2):
            sent_s = net.loop.time()
            transport.write(b"x" * 1000)
            server.transport.write(b"x" * 1000)
            await asyncio.sleep(10.0)
            took.append(server.times[-1] - sent_s - DELAY_S)
            assert client.times[-1] == pytest.approx(sent_s + DELAY_S)

    took: list[float] = []
    simulate(body, LinkPlan(delay_s=DELAY_S, bytes_s=FAST, up_bytes_s=(104_000.0, 10_400.0), up_step_s=10.0))
    assert took == pytest.approx([0.01, 0.1])


def test_a_reader_that_stops_holds_the_writer_up() -> None:
    """Kernel and transport buffers fill, the protocol is paused, and goes on when the reader does."""

    async def body(net: Net) -> None:
        transport, client, server = await net.connect()
        server.transport.pause_reading()
        for _ in range(20):
            transport.write(b"x" * 10_000)
        await asyncio.sleep(1.0)
        assert client.paused == 1
        assert server.data == b""
        server.transport.resume_reading()
        await asyncio.sleep(1.0)
        assert client.paused == 0
        assert len(server.data) == 200_000
        assert transport.get_write_buffer_size() == 0

    simulate(body)


@pytest.mark.parametrize("side", [Side.UP, Side.DOWN])
def test_a_half_open_line_carries_the_other_direction(side: Side) -> None:
    """What is sent into the hole comes after it, sent again by TCP."""

    async def body(net: Net) -> None:
        _, client, server = await net.connect()
        net.path.holes.append(net.window(5.0, side))
        end_s = net.loop.time() + 5.0
        client.transport.write(b"up")
        server.transport.write(b"down")
        await asyncio.sleep(1.0)
        through, held = (client, server) if side is Side.UP else (server, client)
        assert through.data
        assert not held.data
        await asyncio.sleep(20.0)
        assert held.data
        assert held.times[0] > end_s
        assert not client.lost

    simulate(body)


def test_a_stall_ends_with_everything_in_order() -> None:
    """Nothing is lost and nothing overtakes."""

    async def body(net: Net) -> None:
        transport, _, server = await net.connect()
        net.path.stalls.append(net.window(2.0))
        for number in range(5):
            transport.write(bytes([number]))
            await asyncio.sleep(0.6)
        await asyncio.sleep(1.0)
        assert server.data == bytes(range(5))
        assert server.times[0] == server.times[1]

    simulate(body)


def test_a_cut_connection_is_reset_at_both_ends() -> None:
    """In its third segment, of which a part may still arrive."""

    async def body(net: Net) -> None:
        net.path.cuts.append(Cut(0, Side.UP, 3))
        transport, client, server = await net.connect()
        for _ in range(4):
            transport.write(b"abcdef")
            await asyncio.sleep(0.05)
        assert b"abcdef" * 2 <= server.data < b"abcdef" * 3
        assert [type(error) for error in client.lost + server.lost] == [ConnectionResetError] * 2
        assert net.network.num_open == 0

    simulate(body)


def test_a_forgotten_connection_is_silent() -> None:
    """Nothing passes and nobody is told; a new one works."""

    async def body(net: Net) -> None:
        transport, client, server = await net.connect()
        net.path.connections[0].forget()
        transport.write(b"lost")
        await asyncio.sleep(60.0)
        assert not server.data
        assert not client.lost
        other, _, served = await net.connect()
        other.write(b"here")
        await asyncio.sleep(1.0)
        assert served.data == b"here"

    simulate(body)


def test_an_orderly_end() -> None:
    """FIN, the rest of the data before it, and the other side's FIN."""

    async def body(net: Net) -> None:
        transport, client, server = await net.connect()
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(1.0)
        assert (server.data, server.ended) == (b"last words", True)
        assert client.lost == server.lost == [None]

    simulate(body)


def test_connects_that_fail() -> None:
    """Refused by a RST, with nobody listening, or never answered."""

    async def body(net: Net) -> None:
        net.path.refusals.append(net.window(1.0))
        with pytest.raises(ConnectionRefusedError):
            await net.connect()
        net.path.holes.append(net.window(2000.0))
        began_s = net.loop.time()
        with pytest.raises(TimeoutError):
            await net.connect()
        assert net.loop.time() - began_s == pytest.approx(127.0)
        net.path.holes.clear()
        net.network.stop_listening(0)
        with pytest.raises(ConnectionRefusedError):
            await net.connect()

    simulate(body)


def test_a_dying_server_resets_its_connections() -> None:
    """Its kernel does that for it."""

    async def body(net: Net) -> None:
        _, client, server = await net.connect()
        net.network.stop_listening(0)
        await asyncio.sleep(1.0)
        assert [type(error) for error in client.lost + server.lost] == [ConnectionResetError] * 2

    simulate(body)


def test_a_busy_server_takes_frames_one_after_the_other() -> None:
    """Each costs its event loop 0.1 s, whichever connection it is on."""

    async def body(net: Net) -> None:
        one, _, first = await net.connect()
        two, _, second = await net.connect()
        sent_s = net.loop.time()
        one.write(b"a")
        two.write(b"b")
        await asyncio.sleep(1.0)
        came = [pytest.approx(sent_s + DELAY_S + 0.1), pytest.approx(sent_s + DELAY_S + 0.2)]
        assert first.times + second.times == came

    simulate(body, service_s=0.1)
