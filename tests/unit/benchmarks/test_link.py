"""The delayed link."""

import asyncio
import time

from benchmarks.link import delayed_link


async def test_bytes_arrive_unchanged_in_order_and_late() -> None:
    """What is echoed over the link comes back whole, not before the round trip has passed."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sent = bytes(range(256)) * 400
    async with delayed_link(f"http://127.0.0.1:{port}", rtt_s=0.05) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        started_s = time.monotonic()
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        assert time.monotonic() - started_s >= 0.05
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_a_closed_end_closes_the_other() -> None:
    """When the server hangs up, the client sees the end of the stream."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with delayed_link(f"http://127.0.0.1:{port}", rtt_s=0.0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        assert await asyncio.wait_for(reader.read(), 10) == b"bye"
        writer.close()
    server.close()
    await server.wait_closed()
