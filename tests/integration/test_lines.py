"""Lines that are half dead, on real sockets: the server notices in every mode, and lets go of the turn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import SESSION_PATH, SUBPROTOCOL, Mode, Open, Sampling, encode

from .scripted_server import PROMPT, ScriptedEngine, Server

DEADLINE_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 # the state is the server's, which tells nobody
            await asyncio.sleep(0.01)


def opening(mode: Mode) -> bytes:
    return encode(Open(1, list(PROMPT), Sampling(1_000_000, ignore_eos=True), mode))


@asynccontextmanager
async def silent_edge(port: int, mode: Mode) -> AsyncIterator[None]:
    """A connection that opens a turn and then falls silent: nothing is read, no ping is answered."""
    url = f"ws://127.0.0.1:{port}{SESSION_PATH}"
    protocol = ClientProtocol(parse_uri(url), subprotocols=[Subprotocol(SUBPROTOCOL)])
    protocol.send_request(protocol.connect())
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(line, ("127.0.0.1", port))
        await loop.sock_sendall(line, b"".join(protocol.data_to_send()))
        while protocol.state is not State.OPEN:
            protocol.receive_data(await loop.sock_recv(line, 1024))
        protocol.send_binary(opening(mode))
        await loop.sock_sendall(line, b"".join(protocol.data_to_send()))
        yield
    finally:
        line.close()


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_line_that_answers_no_pings_is_closed(mode: Mode) -> None:
    """Whatever the server does while it waits: the turn ends, and its request with it."""
    server = Server(ws_ping_interval=0.2, ws_ping_timeout=0.2)
    await server.start()
    async with silent_edge(server.port, mode):
        await until(lambda: server.engine.turns == 1)
        await until(lambda: server.engine.running == 0 and len(server.state.connections) == 0)
    await server.kill()


async def test_a_slow_reader_is_ended_by_what_it_leaves_unread() -> None:
    """Once kernel and server hold all that they will, a frame waits no longer than `send_timeout_s`."""
    server = Server(ScriptedEngine(flood=20_000), ServerSettings(send_timeout_s=0.3), ws_ping_interval=None)
    await server.start()
    async with silent_edge(server.port, Mode.LATENCY):
        closed = server.state.metrics.closed.labels("slow_reader")
        await until(lambda: closed._value.get() == 1)
        await until(lambda: server.engine.running == 0)
    await server.kill()
