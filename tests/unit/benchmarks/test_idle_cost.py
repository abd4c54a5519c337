"""What idle sessions cost, with time and CPU faked."""

from __future__ import annotations

import pytest

from benchmarks.idle_cost import NUM_IDLE_SESSIONS, IdleCost, describe_idle, measure_idle
from edge_agent.errors import CloudUnreachable
from edge_agent.fake_transport import FakeConnector, FakeTransport, fake_welcome
from pipesd_vllm.protocol import fingerprint

WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(200)]))


def lines(num: int) -> list[FakeTransport]:
    return [FakeTransport(lambda tokens: 100, WELCOME) for _ in range(num)]


async def no_sleep(_: float) -> None:
    return


async def test_idle_cost_is_measured_with_and_without_sessions() -> None:
    """All sessions are open during the second window and closed after it."""
    transports = lines(NUM_IDLE_SESSIONS)
    readings = iter([10.0, 10.5, 12.0, 12.25])
    cost = await measure_idle(
        FakeConnector(transports), lambda: next(readings), lambda _: None, 10.0, no_sleep
    )
    assert cost == IdleCost(10.0, NUM_IDLE_SESSIONS, 0.5, 0.25)
    assert not any(line.is_open for line in transports)


async def test_a_lost_server_closes_what_was_opened() -> None:
    """Sessions opened before the failure do not stay."""
    transports = lines(2)
    with pytest.raises(CloudUnreachable):
        await measure_idle(FakeConnector(transports), lambda: 0.0, lambda _: None, 1.0, no_sleep)
    assert not any(line.is_open for line in transports)


async def test_unknown_cpu_time_is_not_guessed() -> None:
    """It is called not measured."""
    connector = FakeConnector(lines(NUM_IDLE_SESSIONS))
    cost = await measure_idle(connector, lambda: None, lambda _: None, 1.0, no_sleep)
    assert cost is None
    assert "not measured" in describe_idle(cost)


def test_the_description_carries_the_figures() -> None:
    """One line."""
    assert "0.03 s of CPU in 10 s with 4" in describe_idle(IdleCost(10.0, 4, 0.02, 0.03))
