"""Verify rounds over a bare connection to a verifier in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from benchmarks.rounds import measured_rounds, measured_stream, open_idle_turn
from edge_agent.errors import CloudMisbehaved
from edge_agent.fake_transport import FakeTransport, fake_welcome
from pipesd_vllm.protocol import Commit, Draft, Mode, Open, fingerprint

VOCABULARY = [f"t{i}" for i in range(200)]


def transport(max_model_len: int = 4096) -> FakeTransport:
    welcome = fake_welcome(fingerprint(VOCABULARY), max_model_len=max_model_len)
    return FakeTransport(lambda tokens: 100 + len(tokens) % 7, welcome)


def ticking() -> Iterator[float]:
    now_s = 0.0
    while True:
        yield now_s
        now_s += 0.004


async def test_rounds_are_timed_one_by_one() -> None:
    """From frame to commit, and as many as asked for, over several turns if need be."""
    clock = ticking()
    line = transport(max_model_len=120)  # room for ten rounds a turn besides the warm-up
    rounds = [r async for r in measured_rounds(line, 25, lambda: next(clock))]
    assert len(rounds) == 25
    assert all(r.wall_ms == pytest.approx(4.0) and r.step_ms == 0.0 for r in rounds)
    opened = [message for message in line.sent if isinstance(message, Open)]
    assert [message.turn for message in opened] == [1, 2, 3]
    assert all(len(m.prompt) + m.sampling.max_tokens <= 120 for m in opened)


async def test_drafts_hang_from_the_committed_frontier() -> None:
    """Each frame starts where the last commit ended; node ids never repeat."""
    line = transport()
    [_ async for _ in measured_rounds(line, 3)]
    drafts = [message for message in line.sent if isinstance(message, Draft)]
    assert len({message.first for message in drafts}) == len(drafts)
    assert all(b.base > a.base for a, b in pairwise(drafts))


async def test_an_idle_turn_waits_for_drafts() -> None:
    """The server has given its first token and will do nothing more."""
    line = transport()
    await open_idle_turn(line)
    [opened] = line.sent
    assert isinstance(opened, Open)
    assert opened.mode is Mode.OFFLOAD


async def test_a_server_that_does_not_introduce_itself() -> None:
    """It is not taken for a verifier."""
    line = transport()
    await line.receive()
    line.push(Commit(1, 0, [1]))
    with pytest.raises(CloudMisbehaved):
        await open_idle_turn(line)


async def test_streamed_tokens_are_timed_from_one_to_the_next() -> None:
    """The target decodes by itself: one frame goes up to open the turn, one to end it."""
    clock = ticking()
    line = transport()
    for number in range(30):
        line.push(Commit(1, 32 + number, [5], step_ms=3.0))
    rounds = [r async for r in measured_stream(line, 20, lambda: next(clock))]
    assert len(rounds) == 20
    assert all(r.added_ms == pytest.approx(1.0) for r in rounds)
    opened, _ = line.sent
    assert isinstance(opened, Open)
    assert opened.mode is Mode.LATENCY
