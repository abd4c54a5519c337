"""Emulation without privileges: TCP connections through a proxy with delay and rate; no loss."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import msgspec

from benchmarks.netlink.model import Carried, Configure, Links, LinkSpec, PathSpec

__all__ = ["ProxyPath", "delayed_link", "proxy_path"]

_LOOPBACK: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 1 << 14
_NO_LIMIT_KB: Final = 1e9
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, 0 s."""


class ProxyPath:
    """A path in the running event loop; made by `proxy_path`. It has no queue limit.

    All connections share the rate. Bytes are those of the TCP streams, and a connection is made without
    the handshake's delay, also on a path that is held. What fails on purpose: `cut`, `cut_after`, `hold`.
    """

    description = "an asyncio proxy: delay and rate on TCP streams; loss and queue limit are left out"

    def __init__(self, far_host: str = _LOOPBACK, clock: Callable[[], float] = time.monotonic) -> None:
        self._far_host = far_host
        self._clock = clock
        self._links = Links(clock())
        self._servers: dict[int, asyncio.Server] = {}
        self._ports: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = (asyncio.Event(), asyncio.Event())
        self._left: list[int | None] = [None, None]
        self.num_connections = 0
        """Taken so far."""
        self.release()

    async def reach(self, port: int) -> str:
        """`host:port` that leads over the path to `port` of the server's host."""

        await self._listen(port, 0)
        return f"{_LOOPBACK}:{self._ports[port]}"

    async def _listen(self, port: int, own_port: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.num_connections += 1
            try:
                far_reader, far_writer = await asyncio.open_connection(self._far_host, port)
            except OSError:  # nobody listens there: neither does anybody here
                _reset(writer)
                return
            for carrying in (self._carry(0, reader, far_writer), self._carry(1, far_reader, writer)):
                task = asyncio.create_task(carrying)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(serve, _LOOPBACK, own_port)
        self._servers[port] = server
        self._ports[port] = server.sockets[0].getsockname()[1]

    # -- what fails -----------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection, both ends; new ones are taken as before."""
        for writer in self._writers:
            _reset(writer)
        for task in self._tasks:
            task.cancel()

    def cut_after(self, direction: int, num_bytes: int) -> None:
        """`cut` once so many more bytes have arrived in `direction` (0: up), in mid-frame if need be."""
        self._left[direction] = num_bytes

    def refuse(self) -> None:
        """`cut`, and take no new connections until `restore`."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self.cut()

    async def restore(self) -> None:
        """Listen again, on the same ports. Idempotent."""
        for port, own_port in self._ports.items():
            if port not in self._servers:
                await self._listen(port, own_port)

    def hold(self, *directions: int) -> None:
        """A black hole: nothing more arrives in these directions (0: up), and nobody is told."""
        for direction in directions:
            self._open[direction].clear()

    def release(self) -> None:
        """End of all holes: what was under way arrives, as what TCP sends again would."""
        for is_open in self._open:
            is_open.set()

    # -- what works -----------------------------------------------------------------------

    def configure(self, configure: Configure) -> None:
        """Start the path anew, for instance with other rates."""
        # A TCP stream with bytes missing is no TCP stream.
        up, down = (
            msgspec.structs.replace(spec, loss=0.0, queue_kb=_NO_LIMIT_KB)
            for spec in (configure.path.up, configure.path.down)
        )
        self._links.configure(msgspec.structs.replace(configure, path=PathSpec(up, down)), self._clock())

    def carried(self) -> Carried:
        """Since it was configured."""
        return self._links.carried

    async def close(self) -> None:
        """Cut everything. Idempotent."""
        self.refuse()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, direction: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        releasing = asyncio.create_task(self._release(direction, held, sink))
        self._writers.add(sink)
        try:
            data = b"-"
            with suppress(ConnectionError):
                while data:
                    data = await source.read(_CHUNK_BYTES)
                    due_s = self._links.offer(direction, len(data), self._clock())
                    held.put_nowait((due_s or 0.0, data))
            if data:
                held.put_nowait((self._clock(), b""))
            with suppress(ConnectionError):
                await releasing
        finally:
            releasing.cancel()
            self._writers.discard(sink)
            sink.close()

    async def _release(
        self, direction: int, held: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        while True:
            due_s, data = await held.get()
            await asyncio.sleep(due_s - self._clock())
            await self._open[direction].wait()
            if not data:
                return
            left = self._left[direction]
            if left is not None and left < len(data):
                sink.write(data[:left])
                await sink.drain()
                self._left[direction] = None
                self.cut()
                return
            if left is not None:
                self._left[direction] = left - len(data)
            sink.write(data)
            await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    if (own := writer.get_extra_info("socket")) is not None:
        with suppress(OSError):  # closed already
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


@asynccontextmanager
async def proxy_path(far_host: str = _LOOPBACK) -> AsyncIterator[ProxyPath]:
    """The path to ports of `far_host`, closed in the end."""
    path = ProxyPath(far_host)
    try:
        yield path
    finally:
        await path.close()


@asynccontextmanager
async def delayed_link(base_url: str, rtt_s: float) -> AsyncIterator[str]:
    """A base URL that leads to `base_url`, `rtt_s / 2` later each way.

    Connections are made without the handshake's delay: add one round trip to what a new one costs.
    """
    url = urlsplit(base_url)
    one_way = LinkSpec(delay_ms=rtt_s * 1e3 / 2)
    async with proxy_path(url.hostname or _LOOPBACK) as path:
        path.configure(Configure(PathSpec(one_way, one_way)))
        yield f"{url.scheme}://{await path.reach(url.port or 80)}"
