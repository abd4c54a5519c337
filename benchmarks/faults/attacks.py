"""Another tenant that means harm: what it does to a server for some seconds while others are answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from benchmarks.faults.stage import ATTACKERS_KEY, Process
from pipesd_vllm.wire import MAX_DRAFT_TOKENS, SESSION_PATH, SUBPROTOCOL, Draft, Mode, Open, Sampling, encode

__all__ = ["ATTACKS"]

Attack = Callable[[Process, random.Random], Awaitable[None]]

_FOR_S: Final = 4.0
_NUM_LINES: Final = 2000
"""Half-open ones."""
_NUM_EDGES: Final = 8
_PROMPT: Final = list(range(300, 340))
_LONG: Final = Sampling(1000, ignore_eos=True)
_HALF: Final = f"GET {SESSION_PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: webso".encode()
_GARBAGE: Final = (
    b"",
    b"\xc1",
    b"\x92\x63\x01",
    b"\x91" * 100_000,
    bytes(1 << 20),
    bytes((1 << 20) + 1),
    "text",
)
_FAULTS: Final = (OSError, WebSocketException, TimeoutError)


def _dial(server: Process) -> connect:
    return connect(
        f"ws://127.0.0.1:{server.port}{SESSION_PATH}",
        additional_headers={"Authorization": f"Bearer {ATTACKERS_KEY}"},
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
        max_size=None,
    )


async def _seats(server: Process, rng: random.Random) -> None:
    """Open connections as fast as they go, and keep them."""
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FOR_S):
                while True:
                    try:
                        await stack.enter_async_context(_dial(server))
                    except _FAULTS:  # a 429, from where its share ends
                        await asyncio.sleep(0)


async def _junk(server: Process, rng: random.Random) -> None:
    """Turns whose drafts are all wrong, sent at full rate."""

    async def edge() -> None:
        with suppress(*_FAULTS):
            async with asyncio.timeout(_FOR_S), _dial(server) as line:
                await line.send(encode(Open(1, _PROMPT, _LONG, Mode.OFFLOAD)))
                reading = asyncio.create_task(_read(line))
                try:
                    first = 1
                    while True:
                        tokens = [rng.randrange(1000)] * MAX_DRAFT_TOKENS
                        await line.send(encode(Draft(1, first, len(_PROMPT) + first % 50, 0, tokens)))
                        first += MAX_DRAFT_TOKENS
                        await asyncio.sleep(0)
                finally:
                    reading.cancel()

    await asyncio.gather(*(edge() for _ in range(_NUM_EDGES)))


async def _read(line: ClientConnection) -> None:
    with suppress(*_FAULTS):
        async for _ in line:
            pass


async def _half_open(server: Process, rng: random.Random) -> None:
    """Lines that say nothing, or half of an upgrade."""
    writers = []
    for number in range(_NUM_LINES):
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(_HALF if number % 2 else b"")
            writers.append(writer)
    await asyncio.sleep(_FOR_S)
    for writer in writers:
        writer.transport.abort()


async def _deaf(server: Process, rng: random.Random) -> None:
    """Turns of which nobody reads anything."""

    async def edge() -> None:
        with suppress(*_FAULTS):
            async with _dial(server) as line:
                line.transport.pause_reading()
                await line.send(encode(Open(1, _PROMPT, _LONG, Mode.LATENCY)))
                await asyncio.sleep(_FOR_S)
                line.transport.abort()

    await asyncio.gather(*(edge() for _ in range(_NUM_EDGES)))


async def _garbage(server: Process, rng: random.Random) -> None:
    """Frames that are none, on connection after connection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FOR_S):
            while True:
                with suppress(OSError, WebSocketException):
                    async with _dial(server) as line:
                        await line.send(rng.choice(_GARBAGE))
                        await _read(line)
                await asyncio.sleep(0)


ATTACKS: Final[Mapping[str, tuple[str, Attack]]] = {
    "attack-seats": ("another key opens connections as fast as it can, for 4 s", _seats),
    "attack-junk": ("another key's eight turns draft junk at full rate, for 4 s", _junk),
    "attack-half-open": ("2,000 lines that say nothing or half of an upgrade, for 4 s", _half_open),
    "attack-deaf": ("another key's eight turns, of which nobody reads anything, for 4 s", _deaf),
    "attack-garbage": ("another key's frames that are none, connection after connection, for 4 s", _garbage),
}
