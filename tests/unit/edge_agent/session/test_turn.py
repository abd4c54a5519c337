"""A turn's line: what is read of it, and how its loss is noticed."""

import asyncio
import time

import pytest

from edge_agent.api import GenerationRequest, Sampling
from edge_agent.errors import CloudUnreachable
from edge_agent.session import ReceivedCommit, TokenExchange
from edge_agent.session.chain import DraftChain
from edge_agent.session.turn import Turn, TurnEvent, TurnLost
from edge_agent.testing import FakeConnector, FakeTransport, fake_welcome
from edge_agent.verifier import ConnectionPool, Keepalive
from pipesd_vllm.wire import Mode, Open, Upstream, Welcome, fingerprint

from ..conftest import VOCABULARY, target_next

PROMPT = (5, 17, 42)
WELCOME = fake_welcome(fingerprint(VOCABULARY))


class Swallowed(FakeTransport):
    """A line that says nothing after the first commit, and answers pings only while `alive`."""

    def __init__(self, *, alive: bool) -> None:
        super().__init__(target_next, WELCOME)
        self.alive = alive
        self.num_pings = 0

    async def ping(self, num_bytes: int) -> float:
        self.num_pings += 1
        if not self.alive:
            await asyncio.Event().wait()
        return 1e-3


async def accept(_: Welcome) -> None:
    pass


class Line:
    """A turn on given transports, and what it told."""

    def __init__(self, *transports: FakeTransport, answer_s: float = 20.0) -> None:
        request = GenerationRequest("r", PROMPT, Sampling(20))
        self.events: asyncio.Queue[TurnEvent] = asyncio.Queue()
        chain = DraftChain(PROMPT, len(VOCABULARY))
        self.pool = ConnectionPool(FakeConnector(transports), accept, 1.0)
        told, keepalive = self.events.put_nowait, Keepalive(0.02, answer_s)
        self.turn = Turn(TokenExchange(request, chain), self.pool, time.monotonic, told, keepalive=keepalive)

    async def open(self, lost: CloudUnreachable | None = None) -> None:
        await self.turn.open(Mode.OFFLOAD, 500, lost)

    async def event(self) -> TurnEvent:
        return await asyncio.wait_for(self.events.get(), 20.0)


async def test_a_line_that_swallows_everything_is_lost() -> None:
    """Nothing tells of it: no answer to the question for a sign of life does."""
    line = Line(Swallowed(alive=False), answer_s=0.05)
    await line.open()
    assert isinstance(await line.event(), ReceivedCommit)
    lost = await line.event()
    assert isinstance(lost, TurnLost)
    assert isinstance(lost.error, CloudUnreachable)
    await line.turn.stop(finished=False)


class Full(FakeTransport):
    """A line whose buffers are full: a turn's first frame waits in them for ever."""

    async def send(self, message: Upstream) -> int:
        if isinstance(message, Open):
            await asyncio.Event().wait()
        return await super().send(message)


async def test_a_line_that_takes_nothing_is_lost() -> None:
    """A turn that cannot be sent is tried once more, on another connection."""
    line = Line(Full(target_next, WELCOME), Swallowed(alive=True), answer_s=0.05)
    await line.open()
    assert isinstance(await line.event(), ReceivedCommit)
    await line.turn.stop(finished=False)


async def test_after_a_loss_no_idle_connection_is_taken() -> None:
    """They may be as dead: the turn goes on over one that was made after the loss."""
    first, idle, fresh = (Swallowed(alive=True) for _ in range(3))
    line = Line(first, idle, fresh)
    await line.open()
    await line.pool.release(await line.pool.acquire())
    await line.open(CloudUnreachable("lost"))
    assert [any(isinstance(m, Open) for m in t.sent) for t in (first, idle, fresh)] == [True, False, True]
    assert not idle.is_open
    await line.turn.stop(finished=False)


async def test_a_long_prompt_has_time_to_go_up() -> None:
    """While it may still be on its way, a question behind it that is not answered yet is no sign of death."""
    line = Line(Swallowed(alive=False), answer_s=0.05)
    connection = await line.pool.acquire()
    receiving = Keepalive(0.02, 0.05).receive(connection, turn=1, num_sent=80_000)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(receiving, 0.5)


async def test_a_server_that_takes_its_time_is_not() -> None:
    """It is asked again and again, and the turn goes on."""
    transport = Swallowed(alive=True)
    line = Line(transport)
    await line.open()
    await line.event()
    async with asyncio.timeout(20.0):
        while transport.num_pings < 3:  # noqa: ASYNC110 - nothing tells of a ping
            await asyncio.sleep(0.01)
    assert line.events.empty()
    await line.turn.stop(finished=False)


async def test_what_came_before_a_new_opening_is_void() -> None:
    """A commit, or a loss, that was read before the turn was opened anew has an earlier number."""
    line = Line(Swallowed(alive=True))
    await line.open()
    early = await line.event()
    assert early.opening == line.turn.opening
    await line.open()
    assert early.opening < line.turn.opening
    assert (await line.event()).opening == line.turn.opening
    await line.turn.stop(finished=False)
