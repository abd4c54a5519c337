"""Several servers of one target: which is asked, which next, and what is told when none answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from edge_agent.errors import CloudError, CloudOverloaded, CloudRefused, CloudUnreachable, TargetChanged
from edge_agent.testing import FakeTransport, fake_welcome
from edge_agent.verifier import CloudApi, ConnectionPool
from edge_agent.verifier.replicas import Replicas
from pipesd_vllm.wire import Identity, Welcome, fingerprint

from ..conftest import VOCABULARY, target_next

IDENTITY = Identity("hub:1", "bfloat16", "auto", "", "0.32.0", "v2", "template", "hermes", "qwen3")
WELCOME = msgspec.structs.replace(fake_welcome(fingerprint(VOCABULARY)), identity=IDENTITY)
OTHER = msgspec.structs.replace(WELCOME, identity=msgspec.structs.replace(IDENTITY, weights="hub:2"))
GONE = CloudUnreachable("nobody is here")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Place:
    """A server of a pool: says `welcome`, or raises what is in its place."""

    def __init__(self, welcome: Welcome | CloudError) -> None:
        self.welcome = welcome
        self.num_asked = 0

    async def connect(self) -> FakeTransport:
        self.num_asked += 1
        if isinstance(self.welcome, CloudError):
            raise self.welcome
        return FakeTransport(target_next, self.welcome)


def pool_of(*places: Place, clock: Callable[[], float] | None = None) -> tuple[ConnectionPool, list[Welcome]]:
    """A pool, and the welcomes that it had checked."""
    checked: list[Welcome] = []

    async def check(welcome: Welcome) -> None:
        checked.append(welcome)

    first, *others = places
    return ConnectionPool(first, check, 1.0, others=others, clock=clock or Clock()), checked


def test_those_that_failed_come_last() -> None:
    """For a time that grows; then they are asked in their place again, and forgotten when they answer."""
    clock = Clock()
    replicas = Replicas(3, clock)
    assert replicas.order() == [0, 1, 2]
    replicas.failed(0)
    replicas.failed(1, for_s=30.0)
    assert replicas.order() == [2, 0, 1]
    replicas.failed(2)
    assert not replicas.has_another
    clock.now_s += 2.5
    assert replicas.order() == [0, 2, 1]
    replicas.failed(0)  # 4 s now
    clock.now_s += 3.0
    assert replicas.order() == [2, 0, 1]
    replicas.answered(0)
    assert replicas.order() == [0, 2, 1]
    assert replicas.has_another


@pytest.mark.parametrize("error", [GONE, CloudOverloaded("full", 5.0), CloudRefused("no_pipesd", "plain")])
async def test_another_server_takes_the_turn(error: CloudError) -> None:
    """Whatever keeps the first from it; it is left alone for a while if that may pass."""
    first, second = Place(error), Place(WELCOME)
    pool, _ = pool_of(first, second)
    for _ in range(2):
        connection = await pool.acquire()
        assert connection.replica == 1
    assert first.num_asked == (2 if type(error) is CloudRefused else 1)
    await pool.close()


async def test_a_server_lost_in_mid_turn_is_asked_last() -> None:
    """It may still take connections: that it fails with turns is known only to the turn."""
    first, second = Place(WELCOME), Place(WELCOME)
    pool, _ = pool_of(first, second)
    connection = await pool.acquire()
    pool.lost(connection, None)
    await connection.close()
    assert (await pool.acquire()).replica == 1
    assert pool.has_another
    await pool.close()


async def test_an_answer_goes_on_at_its_own_target_only() -> None:
    """A replica with other weights is passed over, also an idle connection to one, and nobody hears of it."""
    first, second, third = Place(WELCOME), Place(OTHER), Place(WELCOME)
    pool, checked = pool_of(first, second, third)
    first.welcome = GONE
    idle = await pool.acquire()
    assert idle.replica == 1
    await pool.release(idle)
    assert (await pool.acquire(began=WELCOME)).replica == 2
    assert checked == [OTHER, WELCOME]
    assert await pool.acquire() is idle
    await pool.close()


@pytest.mark.parametrize(
    ("states", "raised"),
    [
        ([GONE, OTHER], CloudUnreachable),
        ([OTHER, OTHER], TargetChanged),
        ([OTHER], TargetChanged),
        ([CloudRefused("invalid_api_key", "no"), GONE], CloudUnreachable),
        ([CloudRefused("invalid_api_key", "no")], CloudRefused),
    ],
)
async def test_what_is_told_when_none_can(
    states: Sequence[Welcome | CloudError], raised: type[CloudError]
) -> None:
    """An error after which a later attempt can succeed, if one of them may come back."""
    pool, _ = pool_of(*map(Place, states))
    with pytest.raises(raised) as caught:
        await pool.acquire(began=WELCOME)
    assert type(caught.value) is raised
    await pool.close()


async def test_plain_requests_go_to_a_server_that_is_there(tmp_path: Path) -> None:
    """The rest of them at once: the one that failed is asked last for a while."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "one":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=b"{}")

    transport = httpx.MockTransport(handle)
    api = CloudApi("http://one", None, 1.0, tmp_path, transport, replicas=["http://two"])
    answers = [await api.forward("/v1/completions", b"{}") for _ in range(2)]
    assert [await answer.read() for answer in answers] == [b"{}", b"{}"]
    assert await api.is_healthy()
    assert asked == ["one", "two", "two", "two"]
    await api.close()
