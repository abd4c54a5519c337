"""What a connection leaves out of an `Ask`, as the server keeps what the last one said."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from edge_agent.testing import FakeTransport, fake_welcome
from edge_agent.verifier.connection import CloudConnection
from pipesd_vllm.wire import ASK, KEPT, Ask, Upstream, Welcome, fingerprint, in_full

from ..conftest import VOCABULARY, target_next

LONG = b"[" + b"a message, " * 200


class Line(FakeTransport):
    """Keeps what is sent; `stalls` as long as it is set."""

    def __init__(self, welcome: Welcome) -> None:
        super().__init__(target_next, welcome)
        self.asks: list[Ask] = []
        self.stalls = False

    async def send(self, message: Upstream) -> int:
        if self.stalls:
            await asyncio.Event().wait()
        assert isinstance(message, Ask)
        self.asks.append(message)
        return len(message.body)


def connection(*features: str) -> tuple[CloudConnection, Line]:
    welcome = msgspec.structs.replace(fake_welcome(fingerprint(VOCABULARY)), features=list(features))
    line = Line(welcome)
    return CloudConnection(line, welcome), line


def ask(turn: int, body: bytes) -> Ask:
    return Ask(turn, "/v1/chat/completions", body, "r")


async def test_a_conversations_next_turn_says_what_is_new() -> None:
    """And the one after it refers to the whole of that."""
    cloud, line = connection(ASK, KEPT)
    bodies = [LONG + b"1]", LONG + b"1, 2]", LONG + b"1, 2, 3]"]
    sizes = [await cloud.send(ask(turn, body)) for turn, body in enumerate(bodies)]
    assert sizes[0] == len(bodies[0])
    assert max(sizes[1:]) < 10
    last = b""
    for sent, body in zip(line.asks, bodies, strict=True):
        last = in_full(sent, last).body
        assert last == body


async def test_an_older_server_is_told_everything() -> None:
    cloud, line = connection(ASK)
    for turn in range(2):
        await cloud.send(ask(turn, LONG))
    assert [sent.kept for sent in line.asks] == [None, None]


async def test_after_a_send_that_was_cancelled_everything_is_said() -> None:
    """Nobody knows whether the server has got it."""
    cloud, line = connection(ASK, KEPT)
    await cloud.send(ask(1, LONG))
    line.stalls = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cloud.send(ask(2, LONG)), 0.01)
    line.stalls = False
    await cloud.send(ask(3, LONG))
    assert [sent.kept for sent in line.asks] == [None, None]
