"""Emulation without privileges: TCP connections through a proxy with delay and rate; no loss."""

from __future__ import annotations

import asyncio
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


class ProxyPath:
    """A path in the running event loop; made by `proxy_path`. It has no queue limit.

    All connections share the rate. Bytes are those of the TCP streams, and a connection is made without
    the handshake's delay.
    """

    description = "an asyncio proxy: delay and rate on TCP streams; loss and queue limit are left out"

    def __init__(self, far_host: str = _LOOPBACK, clock: Callable[[], float] = time.monotonic) -> None:
        self._far_host = far_host
        self._clock = clock
        self._links = Links(clock())
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def reach(self, port: int) -> str:
        """`host:port` that leads over the path to `port` of the server's host."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(self._far_host, port)
            for carrying in (self._carry(0, reader, far_writer), self._carry(1, far_reader, writer)):
                task = asyncio.create_task(carrying)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(serve, _LOOPBACK, 0)
        self._servers.append(server)
        return f"{_LOOPBACK}:{server.sockets[0].getsockname()[1]}"

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
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, direction: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        releasing = asyncio.create_task(self._release(held, sink))
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
            sink.close()

    async def _release(self, held: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await held.get()
            await asyncio.sleep(due_s - self._clock())
            if not data:
                return
            sink.write(data)
            await sink.drain()


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
