"""TCP in memory and on virtual time, below asyncio's own transport interface.

The real `websockets` client and uvicorn's real protocols run over it. One `Path` an edge: two directions with
delay, rate and jitter, and what goes wrong on them. What is simulated of TCP: order, the kernel's buffers and
back-pressure, retransmission with exponential backoff, FIN, RST, connections that a NAT has forgotten.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from benchmarks.sim.plan import LinkPlan, Side

__all__ = ["Connection", "Path", "SimNetwork", "SimTransport", "Window"]

_FOREVER_S: Final = 1e9
_HEADER_BYTES: Final = 40
_USER_TIMEOUT_S: Final = 924.0
"""Linux gives up after 15 retransmissions."""
_SYN_TIMEOUT_S: Final = 127.0
_RTO_S: Final = 0.2
_SYN_RTO_S: Final = 1.0
_MOST_RTO_S: Final = 120.0
_HIGH_WATER: Final = 65_536
"""asyncio's own bound of a transport's buffer."""

Log = Callable[..., None]


class Window(NamedTuple):
    """A time in which something goes wrong in a direction, or in both."""

    start_s: float
    end_s: float
    side: Side = Side.BOTH

    def covers(self, now_s: float, side: Side) -> bool:
        return self.start_s <= now_s < self.end_s and self.side in (Side.BOTH, side)


class Cut(NamedTuple):
    """Connection number `connection` is reset by its segment number `after` in direction `side`."""

    connection: int
    side: Side
    after: int


class Path:
    """One edge's way to its server. Add to its lists what is to go wrong; times are those of the loop."""

    def __init__(self, name: str, server: int, link: LinkPlan, rng: random.Random) -> None:
        """`server`: whose listener answers."""
        self.name = name
        self.server = server
        self.link = link
        self.rng = rng
        self._luck = {side: random.Random(rng.getrandbits(64)) for side in Side}
        """One of each direction: what goes up does not change what is lost on the way down."""
        self.stalls: list[Window] = []
        self.holes: list[Window] = []
        self.refusals: list[Window] = []
        self.cuts: list[Cut] = []
        self.connections: list[Connection] = []
        self.num_bytes = {Side.UP: 0, Side.DOWN: 0}
        """Written, without TCP's own headers."""
        down_bytes_s = link.bytes_s if link.down_bytes_s is None else link.down_bytes_s
        self._bytes_s = {Side.UP: link.bytes_s, Side.DOWN: down_bytes_s}
        self._free_s = {Side.UP: 0.0, Side.DOWN: 0.0}

    @property
    def num_held(self) -> int:
        """Connections that the edge has not lost or closed."""
        return sum(not connection.client.lost for connection in self.connections)

    def transmit_s(self, now_s: float, side: Side, num_bytes: int) -> float:
        """When the last bit of a segment that is sent now has left."""
        self.num_bytes[side] += num_bytes
        size = _HEADER_BYTES + num_bytes
        begins_s = max(now_s, self._free_s[side])
        self._free_s[side] = begins_s + size / self._rate(begins_s, side)
        return self._free_s[side]

    def _rate(self, now_s: float, side: Side) -> float:
        link = self.link
        if side is Side.UP and link.up_bytes_s:
            return link.up_bytes_s[int(now_s / link.up_step_s) % len(link.up_bytes_s)]
        return self._bytes_s[side]

    def passes(self, now_s: float, side: Side) -> float | None:
        """When a packet that leaves now is at the far end; None: it is lost."""
        if any(hole.covers(now_s, side) for hole in self.holes):
            return None
        link = self.link
        luck = self._luck[side]
        if link.loss and luck.random() < link.loss:
            return None
        at_s = now_s + link.delay_s + (luck.random() * link.jitter_s if link.jitter_s else 0.0)
        for stall in self.stalls:
            if stall.covers(now_s, side):
                at_s = max(at_s, stall.end_s)
        return at_s

    def arrival_s(self, now_s: float, side: Side, rto_s: float = _RTO_S) -> float:
        """As `passes`, sent again and again as TCP does."""
        sent_s = now_s
        while sent_s - now_s < _USER_TIMEOUT_S:
            if (at_s := self.passes(sent_s, side)) is not None:
                return at_s
            sent_s += rto_s
            rto_s = min(2 * rto_s, _MOST_RTO_S)
        return _FOREVER_S


@dataclass(slots=True)
class _Segment:
    """Data on the wire; None is a FIN. `cuts`: the connection is reset within it."""

    data: bytes | None
    cuts: bool = False


class SimTransport(asyncio.Transport):
    """One end of a connection, which sends in direction `side`."""

    def __init__(self, connection: Connection, side: Side, protocol: Any) -> None:
        super().__init__()
        self.connection = connection
        self.side = side
        self.protocol = protocol
        self.peer: SimTransport | None = None
        self.lost = False
        self.has_received = False
        self.last_arrival_s = 0.0
        self._loop = connection.loop
        self._unacked = 0
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._writing_paused = self._reading_paused = False
        self._inbox: deque[bytes | None] = deque()
        self._wire: deque[_Segment] = deque()
        self._num_segments = 0
        self._fin_sent = self._closing = self._cut = False

    # -- asyncio's interface --------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The far end of a server's transport is named by its path and the connection's number."""
        return (self.connection.path.name, self.connection.number) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self.protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._reading_paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """What the kernel has not taken in."""
        return max(0, self._unacked - self.connection.path.link.kernel_bytes)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        if not data or self.lost or self._fin_sent:
            return
        self._unacked += len(data)
        self._send(data)
        if not self._writing_paused and self.get_write_buffer_size() > self._high:
            self._writing_paused = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        if not self._fin_sent and not self.lost:
            self._fin_sent = True
            self._send(None)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.write_eof()
        if not self.get_write_buffer_size():
            self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        if self.lost:
            return
        self._closing = self._fin_sent = True
        self.connection.reset_peer_of(self)
        self._loop.call_soon(self.lose, None)

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._loop.call_soon(self._drain)

    # -- sending --------------------------------------------------------------------------

    def _send(self, data: bytes | None) -> None:
        connection, path, now_s = self.connection, self.connection.path, self._loop.time()
        if connection.forgotten or self._cut:
            return
        left_s = path.transmit_s(connection.served_s(now_s, self.side), self.side, len(data or b""))
        at_s = max(self.last_arrival_s, path.arrival_s(left_s, self.side))
        self.last_arrival_s = at_s
        self._num_segments += 1
        if at_s >= _FOREVER_S:
            self._loop.call_later(_USER_TIMEOUT_S, self.lose, TimeoutError("connection timed out"))
            return
        self._cut = connection.is_cut(self.side, self._num_segments)
        self._wire.append(_Segment(data, self._cut))
        self._loop.call_at(at_s, self._arrive)

    def _arrive(self) -> None:
        peer, segment = self.peer, self._wire.popleft()
        connection = self.connection
        if segment.cuts:
            connection.reset(self, segment.data)
        elif connection.forgotten:
            pass
        elif peer is None or peer.lost:
            if not self.lost:  # nobody there any more: a RST comes back
                back_s = connection.path.arrival_s(self._loop.time(), self.opposite)
                self._loop.call_at(back_s, self.lose, ConnectionResetError("connection reset by peer"))
        else:
            connection.log("arrive", str(self.side), len(segment.data or b""))
            peer.take(segment.data)

    @property
    def opposite(self) -> Side:
        return Side.DOWN if self.side is Side.UP else Side.UP

    def _acked(self, num_bytes: int) -> None:
        self._unacked -= num_bytes
        if self.lost:
            return
        if self._writing_paused and self.get_write_buffer_size() <= self._low:
            self._writing_paused = False
            self.protocol.resume_writing()
        if self._closing and not self.get_write_buffer_size():
            self.lose(None)

    # -- receiving ------------------------------------------------------------------------

    def take(self, data: bytes | None) -> None:
        """Data, or a FIN, that arrived here."""
        self.has_received = True
        self._inbox.append(data)
        now_s = self._loop.time()
        served_s = self.connection.served_s(now_s, self.side)
        if served_s > now_s:
            self._loop.call_at(served_s, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        while self._inbox and not self._reading_paused and not self.lost:
            data = self._inbox.popleft()
            if data is None:
                if not self.protocol.eof_received():
                    self.close()
                return
            self._acknowledge(len(data))
            self.protocol.data_received(data)

    def _acknowledge(self, num_bytes: int) -> None:
        if self.peer is not None:
            at_s = self.connection.path.arrival_s(self._loop.time(), self.side)
            if at_s < _FOREVER_S:
                self._loop.call_at(at_s, self.peer._acked, num_bytes)

    def lose(self, error: Exception | None) -> None:
        """The connection is over for this end; its protocol is told once."""
        if not self.lost:
            self.lost = self._closing = True
            self.connection.log("lost", str(self.side), type(error).__name__)
            self.protocol.connection_lost(error)


class Connection:
    """Both ends of one TCP connection; `forgotten`: nothing passes any more, and nobody is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, log: Log, service: Service) -> None:
        self.loop = loop
        self.path = path
        self.number = len(path.connections)
        path.connections.append(self)
        self.forgotten = False
        self.client: SimTransport
        self.server: SimTransport
        self._resetting = False
        self._service = service
        self._log = log

    def log(self, what: str, *details: object) -> None:
        self._log(what, self.path.name, self.number, *details)

    def open(self, client: Any, server: Any) -> SimTransport:
        """Join the two protocols; the client's is told now, the server's when the last ACK is there."""
        self.client = SimTransport(self, Side.UP, client)
        self.server = SimTransport(self, Side.DOWN, server)
        self.client.peer, self.server.peer = self.server, self.client
        client.connection_made(self.client)
        self.loop.call_later(self.path.link.delay_s, self._made)
        return self.client

    def _made(self) -> None:
        if not self.server.lost:
            self.server.protocol.connection_made(self.server)

    def served_s(self, now_s: float, side: Side) -> float:
        """When the end that sends in direction `side` gets to what it has to do now."""
        return self._service.take(now_s) if side is Side.DOWN else now_s

    def is_cut(self, side: Side, segment: int) -> bool:
        """Whether a fault cuts the connection in this segment."""
        if self._resetting:
            return False
        for cut in self.path.cuts:
            if cut.connection == self.number and cut.side is side and segment >= cut.after:
                self._resetting = True
        return self._resetting

    def reset(self, sender: SimTransport, data: bytes | None) -> None:
        """Somebody on the way cuts the connection, maybe in the middle of what arrives now."""
        peer = sender.peer
        if data and peer is not None and not peer.lost:
            part = data[: self.path.rng.randrange(len(data) + 1)]
            if part:
                peer.take(part)
        for end, delay_s in ((self.client, 0.001), (self.server, 0.001)):
            wait_s = delay_s if end is peer else self.path.link.delay_s
            self.loop.call_later(wait_s, end.lose, ConnectionResetError("connection reset by peer"))

    def reset_peer_of(self, near: SimTransport) -> None:
        """A RST from `near`; it is not sent again when it is lost."""
        peer = near.peer
        at_s = self.path.passes(self.loop.time(), near.side)
        if peer is None or at_s is None or self.forgotten:
            return
        if near.last_arrival_s < _FOREVER_S:
            at_s = max(at_s, near.last_arrival_s)
        self.loop.call_at(at_s, peer.lose, ConnectionResetError("connection reset by peer"))

    def forget(self) -> None:
        """A NAT on the way knows the connection no more."""
        self.forgotten = True

    @property
    def num_open(self) -> int:
        """Ends that have not lost the connection.

        Not a server's that never got a byte: uvicorn waits for a first request as long as TCP does.
        """
        return (not self.client.lost) + (self.server.has_received and not self.server.lost)


class Service:
    """One server's event loop: a single place where each frame takes `each_s`, one after the other."""

    def __init__(self, each_s: float) -> None:
        self._each_s = each_s
        self._free_s = 0.0

    def take(self, now_s: float) -> float:
        """When a frame that comes up now is done."""
        if not self._each_s:
            return now_s
        self._free_s = max(now_s, self._free_s) + self._each_s
        return self._free_s


@dataclass(slots=True)
class _Listener:
    factory: Callable[[], Any]
    service: Service


class SimNetwork:
    """Paths by host name, listeners by server number."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self._listeners: dict[int, _Listener] = {}
        self.paths: dict[str, Path] = {}

    def listen(self, server: int, factory: Callable[[], Any], service_s: float = 0.0) -> None:
        """`factory` makes the protocol of each connection to `server` from now on."""
        self._listeners[server] = _Listener(factory, Service(service_s))

    def is_listening(self, server: int) -> bool:
        return server in self._listeners

    def stop_listening(self, server: int) -> None:
        """The server's process dies: new connections are refused, its kernel resets those it has."""
        self._listeners.pop(server, None)
        for path in self.paths.values():
            if path.server == server:
                for connection in path.connections:
                    end = connection.server
                    if not end.lost:
                        connection.reset_peer_of(end)
                        end.lose(ConnectionResetError("the server died"))

    async def round_trip(self, host: str) -> Path:
        """A SYN and its answer. Raises `OSError` as a socket's connect would."""
        path, loop = self.paths[host], self._loop
        there_s = path.arrival_s(loop.time(), Side.UP, _SYN_RTO_S)
        back_s = path.arrival_s(there_s, Side.DOWN, _SYN_RTO_S) if there_s < _FOREVER_S else _FOREVER_S
        if back_s >= _FOREVER_S:
            await asyncio.sleep(_SYN_TIMEOUT_S)
            raise TimeoutError("connection timed out")
        await asyncio.sleep(back_s - loop.time())
        refused = any(window.covers(there_s, Side.UP) for window in path.refusals)
        if refused or path.server not in self._listeners:
            raise ConnectionRefusedError("connection refused")
        return path

    async def connect(
        self, protocol_factory: Callable[[], Any], host: str
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """`loop.create_connection`. Raises `OSError`."""
        path = await self.round_trip(host)
        listener = self._listeners[path.server]
        connection = Connection(self._loop, path, self._log, listener.service)
        protocol = protocol_factory()
        transport = connection.open(protocol, listener.factory())
        return transport, protocol

    @property
    def num_open(self) -> int:
        """Ends of connections that nobody has closed."""
        return sum(connection.num_open for path in self.paths.values() for connection in path.connections)
