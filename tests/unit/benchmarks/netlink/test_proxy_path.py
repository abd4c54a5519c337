"""The link without privileges."""

import asyncio
import time

from benchmarks.netlink.proxy import proxy_path
from benchmarks.netlink.relay import Configure
from benchmarks.netlink.spec import LinkSpec, PathSpec


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
        assert path.counts().up.num_bytes == path.counts().down.num_bytes == 20_000
        writer.close()
