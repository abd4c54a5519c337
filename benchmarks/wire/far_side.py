"""The testbed's own process next to the server: `python -m benchmarks.wire.far_side HOST PORT SERVER_PORT`.

On the session's path it passes everything on to the server except padding, on `/probe` it serves
the measurement of the link. Needs nothing that only the server has.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from benchmarks.wire.padded import is_padding
from pipesd_vllm.wire import SESSION_PATH, SUBPROTOCOL

__all__ = ["PROBE_PATH", "start_far_side"]

PROBE_PATH: Final = "/probe"
"""Text is a number of bytes to send back; of bytes their number is sent back."""
_HEALTH_PATH: Final = "/health"
_LARGEST_PROBE: Final = 1 << 28


async def start_far_side(host: str, port: int, server_port: int) -> Server:
    """Listen on `host:port` (0: a free one) for a server on the same host."""

    async def handle(edge: ServerConnection) -> None:
        path = edge.request.path if edge.request is not None else ""
        with suppress(ConnectionClosed):
            if path == PROBE_PATH:
                await _answer_probe(edge)
            else:
                await _pass_on(edge, f"ws://{host}:{server_port}{SESSION_PATH}")

    return await serve(
        handle,
        host,
        port,
        process_request=_answer_health,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
        compression=None,
        max_size=None,
        ping_interval=None,
    )


def _answer_health(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(HTTPStatus.OK, "ready\n") if request.path == _HEALTH_PATH else None


async def _pass_on(edge: ServerConnection, url: str) -> None:
    headers = edge.request.headers if edge.request is not None else {}
    key = {"Authorization": headers["Authorization"]} if "Authorization" in headers else {}
    async with connect(
        url, subprotocols=[Subprotocol(SUBPROTOCOL)], additional_headers=key, compression=None, proxy=None
    ) as server:
        down = asyncio.create_task(_pass_down(server, edge))
        try:
            with suppress(ConnectionClosed):
                async for message in edge:
                    if not is_padding(message):
                        await server.send(message)
        finally:
            down.cancel()


async def _pass_down(server: ClientConnection, edge: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in server:
            await edge.send(message)
    await edge.close(server.close_code or 1011, server.close_reason or "")


async def _answer_probe(edge: ServerConnection) -> None:
    async for message in edge:
        if isinstance(message, bytes):
            await edge.send(str(len(message)))
        else:
            await edge.send(bytes(min(int(message), _LARGEST_PROBE)))


async def _main(host: str, port: int, server_port: int) -> None:
    async with await start_far_side(host, port, server_port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
