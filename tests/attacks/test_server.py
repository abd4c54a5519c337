"""Attacks on the server's endpoint over real sockets: each ends cleanly, the neighbour's answer is whole.

Frames that cannot be meant are in tests/integration/test_session_bad_input.py, on a real engine.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pipesd_vllm.wire import (
    MAX_FRAME_BYTES,
    SESSION_PATH,
    Ask,
    Begun,
    Cancel,
    Control,
    Draft,
    Mode,
    Open,
    Part,
    Sampling,
    encode,
)
from tests.answers import Answer
from tests.unit.pipesd_vllm.api.front_end import KEY, SEED, FrontEnd, until

from .served import DEADLINE_S, OTHER_KEY, Served, served

pytestmark = pytest.mark.filterwarnings("ignore")

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "How is it?"}], "seed": SEED}


def ask(turn: int = 1, **fields: Any) -> Ask:
    return Ask(turn, CHAT, json.dumps(BODY | {"stream": True} | fields).encode(), "r", Mode.LATENCY)


@asynccontextmanager
async def neighbour(server: Served) -> AsyncIterator[None]:
    """Another tenant's answers before, within and after the block are what vLLM's own route says."""
    plain = await server.front.plain(CHAT, BODY | {"stream": True}, key=OTHER_KEY)
    async with server.line(OTHER_KEY) as line:
        await line.send(ask())
        whole(await line.answer(), plain)
        yield
        await line.send(ask(turn=2))
        whole(await line.answer(), plain)


def whole(got: Answer, plain: Answer) -> None:
    assert got.status == 200
    assert got.by_choice() == plain.by_choice()


# -- who may come in ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["", "Bearer", "Bearer sk-wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"bearer\t{KEY}"]
)
async def test_a_wrong_key(front: FrontEnd, key: str) -> None:
    """HTTP 401 on every route, no session, and no name that the server goes by lets anybody in."""
    async with served(front) as server, neighbour(server):
        with pytest.raises(InvalidStatus) as caught:
            await server.dial(additional_headers={"Authorization": key} if key else {})
        assert caught.value.response.status_code == 401
        for path in ("/v1/pipesd/info", "/v1/pipesd/tokenizer", "/v1/models"):
            assert await server.get(path, Authorization=key, Host="localhost") == 401
        assert len(server.state.connections) == 1


async def test_one_key_takes_all_seats(front: FrontEnd) -> None:
    """Beyond its share a key gets 429 with a time to wait, however often; another key still comes in."""
    async with served(front, max_sessions=16, key_share=0.5) as server, AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(server.line())
        for _ in range(200):
            with pytest.raises(InvalidStatus) as caught:
                await server.dial()
            assert caught.value.response.status_code == 429
            assert int(caught.value.response.headers["retry-after"]) > 0
        async with neighbour(server):
            assert len(server.state.connections) == 9


async def test_another_tenants_turn(front: FrontEnd) -> None:
    """A turn is its connection's own: its number on another one, of whatever key, reaches nothing."""
    front.engine.gate = gate = asyncio.Event()
    async with served(front) as server, server.line() as owner:
        plain = await front.plain(CHAT, BODY | {"stream": True})
        await owner.send(ask(turn=7))
        await until(lambda: front.engine.num_running == 1)
        before = list(front.engine.commands)
        for key in (KEY, OTHER_KEY):
            async with server.line(key) as other:
                for frame in (Draft(7, 1, 12, 0, [5, 6]), Control(7, Mode.OFFLOAD), Cancel(7)):
                    await other.send(frame)
                assert await asyncio.wait_for(await other.socket.ping(), DEADLINE_S) >= 0
        assert front.engine.num_running == 1
        assert front.engine.commands == before
        gate.set()
        whole(await owner.answer(), plain)


# -- what a line may carry ------------------------------------------------------------------------


async def test_the_same_frame_twice(front: FrontEnd) -> None:
    """A repeated request ends the one before it and is answered; repeated drafts cost time alone."""
    async with served(front) as server, neighbour(server), server.line() as line:
        plain = await front.plain(CHAT, BODY | {"stream": True})
        front.engine.gate = gate = asyncio.Event()
        num_before = len(front.engine.opened)
        for number in (1, 2):
            await line.send(ask(turn=1))
            await until(lambda: len(front.engine.opened) == num_before + number)  # noqa: B023
        gate.set()
        answer = Answer()
        while not answer.is_whole:
            frame = await line.frame()
            if isinstance(frame, Begun):
                answer = Answer()
            answer.add(frame)
        whole(answer, plain)
        front.engine.gate = None
        draft = Draft(2, 1, 40, 0, [5, 6])
        await line.send(ask(turn=2), draft, draft, draft)
        whole(await line.answer(), plain)


@pytest.mark.parametrize("num_bytes", [MAX_FRAME_BYTES - 1, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 8 << 20])
async def test_frames_at_the_limit(front: FrontEnd, num_bytes: int) -> None:
    """A frame of 1 MiB is read, and found to be none; a byte more is too large. Nothing is kept of either."""
    async with served(front) as server, neighbour(server), server.line() as line:
        await line.socket.send(bytes(num_bytes))
        expected = (1007, "bad_frame") if num_bytes <= MAX_FRAME_BYTES else (1009, "too_large")
        assert await line.closed() == expected


def sized(num_bytes: int) -> bytes:
    """An `Ask` of so many bytes."""
    length = num_bytes - len(encode(ask(padding="")))
    while len(message := encode(ask(padding="x" * length))) != num_bytes:
        length += num_bytes - len(message)
    return message


@pytest.mark.parametrize("more", [0, 1])
async def test_bodies_at_the_limit(front: FrontEnd, more: int) -> None:
    """A message in parts of as many bytes as the server takes is answered; one byte more closes its line."""
    limit = 1 << 20
    async with served(front, max_message_bytes=limit) as server, neighbour(server), server.line() as line:
        message = sized(limit + more)
        for start in range(0, len(message), 1 << 18):
            piece = message[start : start + (1 << 18)]
            await line.socket.send(encode(Part(piece, start + len(piece) >= len(message))))
        if more:
            assert await line.closed() == (1009, "too_large")
        else:
            whole(await line.answer(), await front.plain(CHAT, BODY | {"stream": True}))


async def test_parts_without_an_end(front: FrontEnd) -> None:
    """Parts that never become a message are dropped at the limit, however small they are."""
    async with served(front, max_message_bytes=1 << 20) as server, neighbour(server), server.line() as line:
        piece = encode(Part(bytes(1 << 12), False))
        with suppress(ConnectionClosed):
            for _ in range(300):
                await line.socket.send(piece)
        assert await line.closed() == (1009, "too_large")


async def test_a_bomb(front: FrontEnd) -> None:
    """A line that is let compress sends 15 MiB in 15 KiB: it is closed like any frame that is too large."""
    async with served(front) as server, neighbour(server), server.dial(compression="deflate") as line:
        await line.recv()
        with suppress(ConnectionClosed):
            await line.send(bytes(15 << 20))
            await asyncio.wait_for(line.recv(), DEADLINE_S)
        assert line.close_code == 1009
    assert len(zlib.compress(bytes(15 << 20))) < 1 << 14, "it is a bomb"


async def test_frames_of_one_byte(front: FrontEnd) -> None:
    """A message in fragments of a byte is the message; messages of a byte are none."""
    async with served(front) as server, neighbour(server), server.line() as line:
        plain = await front.plain(CHAT, BODY | {"stream": True})
        data = encode(ask())
        await line.socket.send([data[place : place + 1] for place in range(len(data))])
        whole(await line.answer(), plain)
        with suppress(ConnectionClosed):
            for _ in range(1000):
                await line.socket.send(b"\x01")
        assert await line.closed() == (1007, "bad_frame")


async def test_junk_drafts_at_full_rate(front: FrontEnd) -> None:
    """Thousands of frames that mean nothing do not block their own line, nor a neighbour's."""
    front.engine.gate = gate = asyncio.Event()
    gate.set()
    fast = served(front, max_frames_s=20_000)  # as read by default they take half a minute
    async with fast as server, neighbour(server), server.line() as line:
        plain = await front.plain(CHAT, BODY | {"stream": True})
        await line.send(ask())
        junk = [encode(Draft(turn, 1 + 256 * i, 40 + i, 0, [5] * 256)) for turn in (1, 9) for i in range(10)]
        for number in range(2000):
            await line.socket.send(junk[number % len(junk)])
        whole(await line.answer(), plain)
        await line.send(ask(turn=2))
        whole(await line.answer(), plain)


# -- who takes his time -----------------------------------------------------------------------------


async def test_a_reader_that_stops(front: FrontEnd) -> None:
    """A line whose client does not read is given up after `send_timeout_s`; its requests end with it."""
    front.engine.script = lambda prompt, offset: [65 + place % 26 for place in range(3000)]
    async with (
        served(front, send_timeout_s=0.5) as server,
        server.dial(max_queue=1, sock=server.narrow()) as line,
    ):
        fields = {"max_tokens": 3000, "n": 8, "logprobs": True, "top_logprobs": 20}
        await line.send(encode(ask(**fields)))
        async with asyncio.timeout(DEADLINE_S):
            while not server.closed("slow_reader"):  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.02)
            while front.engine.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        line.transport.abort()


async def test_silence(front: FrontEnd) -> None:
    """An upgrade and then nothing is closed after `idle_timeout_s`; a message begun and left is no word."""
    async with served(front, idle_timeout_s=0.4) as server:
        async with server.line() as silent:
            assert await silent.closed() == (1000, "idle")
        async with server.line() as half:
            await half.socket.send(encode(Part(b"\x97", False)))
            assert await half.closed() == (1000, "idle")


async def test_thousands_of_half_open_lines(front: FrontEnd) -> None:
    """Lines that say nothing, or half of an upgrade, take no seat and keep nobody out."""
    half = f"GET {SESSION_PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: webso".encode()
    async with served(front, max_sessions=4) as server:
        lines = [await server.raw(half if number % 2 else b"") for number in range(2000)]
        async with neighbour(server):
            assert len(server.state.connections) == 1
        for _, writer in lines:
            writer.transport.abort()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS handshake
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET " + SESSION_PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
    ],
    ids=["tls", "ssh", "a header of 1 MiB", "a negative length", "two lengths"],
)
async def test_what_is_no_http(front: FrontEnd, data: bytes) -> None:
    """It is refused with a 4xx or closed, without a session."""
    async with served(front) as server, neighbour(server):
        reader, writer = await server.raw()
        with suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
            first = await asyncio.wait_for(reader.readline(), DEADLINE_S)
            assert first.startswith(b"HTTP/1.1 4") or not first
        writer.transport.abort()


async def test_a_client_that_leaves_within_its_upgrade(front: FrontEnd) -> None:
    """Nothing is left of it: `served` looks."""
    key = f"Authorization: Bearer {KEY}\r\n"
    upgrade = (
        f"GET {SESSION_PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: pipesd.v2\r\n\r\n"
    ).encode()
    async with served(front) as server, neighbour(server):
        for _ in range(50):
            _, writer = await server.raw(upgrade)
            writer.transport.abort()


@pytest.mark.parametrize(
    "prompt", [[], [5] * 4096, [5] * 4095 + [2**31]], ids=["nothing", "the whole context", "no such token"]
)
async def test_prompts_that_cannot_be(front: FrontEnd, prompt: list[int]) -> None:
    """A typed refusal or a typed end, before the engine sees anything."""
    async with served(front) as server, neighbour(server):
        num_before = len(front.engine.opened)
        async with server.line() as line:
            await line.send(Open(3, prompt, Sampling(5), Mode.LATENCY))
            if prompt and max(prompt) > 5:
                assert await line.closed() == (1008, "bad_token")
            else:
                refused: Any = await line.frame()
                assert refused.code in ("empty_prompt", "prompt_too_long")
        assert len(front.engine.opened) == num_before
