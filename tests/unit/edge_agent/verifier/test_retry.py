"""When a verifier is tried again, how often, and how long."""

import asyncio
import math
from datetime import UTC, datetime

import pytest

from edge_agent.api import Fallback
from edge_agent.errors import CloudOverloaded, CloudUnreachable, Transient
from edge_agent.session import retry_policy
from edge_agent.testing import FakeTransport, fake_welcome
from edge_agent.verifier import RetryPolicy, RetryTimeoutConnector
from edge_agent.verifier.retry import RetryTimeout, retry_after_s
from pipesd_vllm.wire import fingerprint

from ..conftest import VOCABULARY, target_next


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


async def test_the_full_timeout_ends_with_the_first_failure() -> None:
    """After a failure an attempt that hangs is given up; once one has worked, it is not."""
    moody = Moody()
    connector = RetryTimeoutConnector(moody, retry_timeout_s=0.01)
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
    connector = RetryTimeoutConnector(distant, retry_timeout_s=0.01)
    with pytest.raises(CloudUnreachable, match="refused"):
        await connector.connect()
    distant.is_up = True
    for _ in range(5):  # 10, 20, 40, 80, 160 ms
        with pytest.raises(CloudUnreachable, match="still"):
            await connector.connect()
    for _ in range(2):
        assert (await connector.connect()).is_open


def test_the_timeout_doubles_up_to_the_full_time_and_starts_over() -> None:
    """Nobody waits the full time at every request of a long outage, and no distance is out of reach."""
    timeout = RetryTimeout(10.0)
    limits: list[float | None] = []
    for _ in range(7):
        limits.append(timeout.limit_s)
        timeout.ran_out(timeout.limit_s)
    assert limits == [10.0, 1.0, 2.0, 4.0, 8.0, 10.0, 1.0]
    timeout.succeeded()
    assert timeout.limit_s == 10.0


def test_attempts_side_by_side_double_once() -> None:
    """What several requests find out at the same time is one finding."""
    timeout = RetryTimeout()
    timeout.failed()
    limit_s = timeout.limit_s
    for _ in range(3):
        timeout.ran_out(limit_s)
    assert timeout.limit_s == 2.0


def test_a_short_full_time_is_never_exceeded() -> None:
    """Who configures less than the retry timeout gets less."""
    timeout = RetryTimeout(0.5)
    for _ in range(3):
        assert timeout.limit_s == 0.5
        timeout.ran_out(timeout.limit_s)


def delays(
    policy: RetryPolicy, error: Transient, *, attempt_s: float = 0.0, jitter: float = 0.0
) -> list[float]:
    """Those before at most 12 more attempts, if every one takes `attempt_s` and ends in `error`."""
    waited: list[float] = []
    elapsed_s = attempt_s
    while len(waited) < 12:
        delay_s = policy.delay_s(error, len(waited), elapsed_s, jitter)
        if delay_s is None:
            break
        waited.append(round(delay_s, 3))
        elapsed_s += delay_s + attempt_s
    return waited


def test_delays_grow_and_end() -> None:
    """Three more attempts, each later than the one before; up to half as late again by chance."""
    lost = CloudUnreachable("lost")
    assert delays(RetryPolicy(), lost) == [0.1, 0.3, 0.9]
    assert delays(RetryPolicy(), lost, jitter=1.0) == [0.15, 0.45, 1.35]
    assert delays(RetryPolicy(), lost, attempt_s=100.0) == [0.1, 0.3, 0.9]


@pytest.mark.parametrize(("attempt_s", "num_retries"), [(0.0, 2), (0.2, 2), (0.5, 1), (1.0, 0), (10.0, 0)])
def test_a_bound_on_time_counts_the_attempts(attempt_s: float, num_retries: int) -> None:
    """Where nothing listens two more attempts fit into a second; after one that hung for long, none."""
    assert len(delays(RetryPolicy(within_s=1.0), CloudUnreachable("x"), attempt_s=attempt_s)) == num_retries


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CloudOverloaded("busy"), [2.0, 2.0, 2.0]),
        (CloudOverloaded("busy", 0.0), [0.1, 0.3, 0.9]),
        (CloudOverloaded("busy", 5.0), [5.0, 5.0]),
        (CloudOverloaded("busy", 11.0), []),
        (CloudUnreachable("HTTP 503", 4.0), [4.0, 4.0]),
        (CloudUnreachable("HTTP 503"), [0.1, 0.3]),
    ],
    ids=str,
)
def test_what_the_server_asks_for_is_kept_to(error: Transient, expected: list[float]) -> None:
    """`Retry-After` is the least delay and has its own bound; an overloaded server without one gets 2 s."""
    assert delays(RetryPolicy(within_s=1.0), error) == expected


def test_waiting_has_no_end() -> None:
    """`wait` tries on whatever happens, at most a minute apart, and does not overflow."""
    forever = retry_policy(Fallback.WAIT, reached=False, begun=False)
    for error in (
        CloudUnreachable("x"),
        CloudUnreachable("x", 1.0),
        CloudOverloaded("x"),
        CloudOverloaded("x", 1e9),
    ):
        assert len(delays(forever, error, attempt_s=100.0)) == 12
    assert forever.delay_s(CloudUnreachable("x"), 10**9, 1e9, 0.0) == 2.0
    assert forever.delay_s(CloudOverloaded("x", 1e9), 0, 0.0, 0.0) == 60.0


@pytest.mark.parametrize("fallback", [Fallback.LOCAL, Fallback.ERROR])
def test_an_answer_that_has_begun_is_worth_more_patience(fallback: Fallback) -> None:
    """Before its first token an overloaded server is an error at once where the client can try again."""
    busy = CloudOverloaded("busy", 3.0)
    assert len(delays(retry_policy(fallback, reached=True, begun=True), busy)) == 3
    at_start = delays(retry_policy(fallback, reached=False, begun=False), busy)
    assert len(at_start) == (0 if fallback is Fallback.ERROR else 3)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("5", 5.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("Sat, 28 Nov 2026 12:00:07 GMT", 7.0),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0.0),
        ("Saturday, 28-Nov-26 12:00:07 GMT", 7.0),
        (None, None),
        ("", None),
        ("-3", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("9" * 400, math.inf),
    ],
    ids=str,
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """Seconds or a date, as in RFC 9110; anything else is as if there were no header."""
    assert retry_after_s(header, datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()) == expected
