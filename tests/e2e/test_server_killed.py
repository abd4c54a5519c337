"""The server is killed in mid-answer and started again: what each fallback policy makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from edge_agent.api import LOST, Fallback
from openai_gateway.cli.processes import ServerProcess
from tests.conftest import Verifier, pruned_verifier

from .stack import agent_of, gateway_client, server_client

# The server starts twice. test_failures.py has what `make test` says of a server that is lost.
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_TOKENS = 240
"""So many that no answer is over when the slowest one has begun, on a machine that stalls, too."""
MESSAGES: Any = [{"role": "user", "content": "Tell me about the history of bread in five sentences."}]
FIELDS: dict[str, Any] = {
    "messages": MESSAGES,
    "temperature": 0,
    "max_tokens": NUM_TOKENS,
    "extra_body": {"ignore_eos": True},
}


@dataclass
class Reading:
    """An answer as it comes: its pieces by whether they are verified, the last figures, and its error."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    verified: str = ""
    unverified: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    error: openai.APIError | None = None
    ended: bool = False

    async def read(self, client: AsyncOpenAI, model: str) -> None:
        """Ask and read to the end; `begun` is set by the third piece of text."""
        num_pieces = 0
        try:
            async for chunk in await client.chat.completions.create(model=model, stream=True, **FIELDS):
                figures = (chunk.model_extra or {}).get("pipesd", {})
                text = chunk.choices[0].delta.content or ""
                if figures.get("verified", True):
                    self.verified += text
                else:
                    self.unverified += text
                num_pieces += bool(text)
                if num_pieces == 3:
                    self.begun.set()
                self.finish_reason = chunk.choices[0].finish_reason
                self.figures = figures
        except openai.APIError as error:
            self.error = error
        finally:
            self.ended = True
            self.begun.set()


@asynccontextmanager
async def stacks(verifier: Verifier) -> AsyncIterator[dict[Fallback, AsyncOpenAI]]:
    """A gateway with its agent for each policy."""
    async with AsyncExitStack() as stack:
        clients = {}
        for policy in Fallback:
            starting = agent_of(verifier, fallback=policy)
            agent = await stack.enter_async_context(starting)
            clients[policy] = await stack.enter_async_context(gateway_client(agent))
        yield clients


def kill(process: ServerProcess) -> None:
    """As the kernel would when memory is short: all of it at once, without a word."""
    os.killpg(process.pid, signal.SIGKILL)
    process.stop()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Verifier]:
    """A server that no other test needs."""
    with pruned_verifier(tmp_path) as verifier:
        yield verifier


async def test_killed_and_started_again(victim: Verifier) -> None:
    """The text up to the loss is exact under every policy; then `error` ends in an error, `local` goes on
    marked, `wait` is whole once the server is back; the next request of each is collaborative again.
    """
    async with server_client(victim) as server:
        answer = await server.chat.completions.create(model=victim.model, **FIELDS)
    expected = answer.choices[0].message.content or ""
    async with stacks(victim) as clients:
        readings = {policy: Reading() for policy in clients}
        tasks = [
            asyncio.create_task(readings[policy].read(client, victim.model))
            for policy, client in clients.items()
        ]
        try:
            await asyncio.gather(*(reading.begun.wait() for reading in readings.values()))
            ended = [policy for policy, reading in readings.items() if reading.ended]
            kill(victim.process)
        finally:
            victim.process.__enter__()
            await asyncio.to_thread(victim.process.wait_ready, 600)
        await asyncio.gather(*tasks)
        assert ended == [], "these answers were over before the server was killed"
        afterwards = [
            await client.chat.completions.create(model=victim.model, **(FIELDS | {"max_tokens": 4}))
            for client in clients.values()
        ]
    check(readings, expected)
    for again in afterwards:
        assert (again.model_extra or {})["pipesd"]["route"] == "collaborative"
        assert expected.startswith(again.choices[0].message.content or "?")


def check(readings: dict[Fallback, Reading], expected: str) -> None:
    """Each policy does what its name says."""
    for reading in readings.values():
        assert reading.verified
        assert expected.startswith(reading.verified)
    error, local, wait = (readings[policy] for policy in (Fallback.ERROR, Fallback.LOCAL, Fallback.WAIT))
    assert error.error is not None
    assert error.error.code == "cloud_unreachable"
    assert error.verified != expected
    assert (local.error, local.finish_reason) == (None, "length")
    assert local.unverified
    assert (local.figures["reason"], local.figures["verified"]) == (LOST, False)
    assert 0 < local.figures["unverified_tokens"] < NUM_TOKENS
    assert (wait.error, wait.finish_reason) == (None, "length")
    assert (wait.verified, wait.unverified) == (expected, "")
    assert (wait.figures["route"], wait.figures["verified"]) == ("collaborative", True)
