"""A link with delay, as a proxy on loopback: needs no privileges; rate and loss are not emulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

__all__ = ["delayed_link"]

_CHUNK_BYTES: Final = 1 << 16


@asynccontextmanager
async def delayed_link(base_url: str, rtt_s: float) -> AsyncIterator[str]:
    """A base URL that leads to `base_url`, `rtt_s / 2` later each way; order and bytes unchanged.

    Connections are made without the handshake's delay: add one round trip to what a new one costs.
    """
    url = urlsplit(base_url)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(url.hostname, url.port)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(_carry(source, sink, rtt_s / 2))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"{url.scheme}://{host}:{port}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass bytes on, each `delay_s` after it came, until either end closes."""
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def release() -> None:
        while True:
            due_s, data = await held.get()
            await asyncio.sleep(due_s - loop.time())
            if not data:
                return
            sink.write(data)
            await sink.drain()

    releasing = asyncio.create_task(release())
    try:
        with suppress(ConnectionError):
            while data := await source.read(_CHUNK_BYTES):
                held.put_nowait((loop.time() + delay_s, data))
        held.put_nowait((loop.time() + delay_s, b""))
        with suppress(ConnectionError):
            await releasing
    finally:
        releasing.cancel()
        sink.close()
