"""How long a verifier is tried."""

import asyncio

import pytest

from edge_agent.errors import CloudUnreachable
from edge_agent.fake_transport import FakeTransport, fake_welcome
from edge_agent.retry import ImpatientConnector, Patience
from pipesd_vllm.protocol import fingerprint

from .conftest import VOCABULARY, target_next


class Moody:
    """A connector that fails, hangs or works, as told."""

    def __init__(self) -> None:
        self.mood = "works"

    async def connect(self) -> FakeTransport:
        if self.mood == "hangs":
            await asyncio.Event().wait()
        if self.mood == "fails":
            raise CloudUnreachable("refused")
        return FakeTransport(target_next, fake_welcome(fingerprint(VOCABULARY)))


async def test_patience_ends_with_the_first_failure() -> None:
    """After a failure an attempt that hangs is given up; once one has worked, it is not."""
    moody = Moody()
    connector = ImpatientConnector(moody, retry_timeout_s=0.01)
    moody.mood = "fails"
    with pytest.raises(CloudUnreachable, match="refused"):
        await connector.connect()
    moody.mood = "hangs"
    with pytest.raises(CloudUnreachable, match="still"):
        await connector.connect()
    moody.mood = "works"
    assert (await connector.connect()).is_open
    moody.mood = "hangs"
    waiting = asyncio.create_task(connector.connect())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    waiting.cancel()


class Distant:
    """A connector that needs `seconds`, and fails until it `is_up`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.is_up = False

    async def connect(self) -> FakeTransport:
        if not self.is_up:
            raise CloudUnreachable("refused")
        await asyncio.sleep(self._seconds)
        return FakeTransport(target_next, fake_welcome(fingerprint(VOCABULARY)))


async def test_a_distant_verifier_is_reached_again() -> None:
    """One that needs twenty times the first timeout comes back within some attempts, and stays."""
    distant = Distant(0.2)
    connector = ImpatientConnector(distant, retry_timeout_s=0.01)
    with pytest.raises(CloudUnreachable, match="refused"):
        await connector.connect()
    distant.is_up = True
    for _ in range(5):  # 10, 20, 40, 80, 160 ms
        with pytest.raises(CloudUnreachable, match="still"):
            await connector.connect()
    for _ in range(2):
        assert (await connector.connect()).is_open


def test_patience_doubles_up_to_the_full_time_and_starts_over() -> None:
    """Nobody waits the full time at every request of a long outage, and no distance is out of reach."""
    patience = Patience(10.0)
    limits: list[float | None] = []
    for _ in range(7):
        limits.append(patience.limit_s)
        patience.ran_out(patience.limit_s)
    assert limits == [10.0, 1.0, 2.0, 4.0, 8.0, 10.0, 1.0]
    patience.succeeded()
    assert patience.limit_s == 10.0


def test_attempts_side_by_side_double_once() -> None:
    """What several requests find out at the same time is one finding."""
    patience = Patience()
    patience.failed()
    limit_s = patience.limit_s
    for _ in range(3):
        patience.ran_out(limit_s)
    assert patience.limit_s == 2.0


def test_a_short_full_time_is_never_exceeded() -> None:
    """Who configures less than the retry timeout gets less."""
    patience = Patience(0.5)
    for _ in range(3):
        assert patience.limit_s == 0.5
        patience.ran_out(patience.limit_s)
