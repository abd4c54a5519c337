"""Where a verify round's time goes, with server and plain vLLM in memory."""

from __future__ import annotations

import pytest

from benchmarks.speed.overhead import Overhead, RoundCost, describe_overhead, measure_overhead, overhead, round_cost
from benchmarks.plain_rounds import OwnCode
from benchmarks.rounds import Round
from edge_agent.fake_transport import FakeConnector, FakeTransport, fake_welcome
from pipesd_vllm.protocol import Commit, fingerprint

WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(200)]))
NUM_REPEATS = 3
NUM_ROUNDS = 4


class FakePlainApi:
    """Plain vLLM whose figures are known."""

    def __init__(self, tells_own_code: bool = True) -> None:
        self._tells = tells_own_code
        self._num_asked = 0

    async def token_gaps_ms(self, num_tokens: int) -> list[float]:
        return [9.0] * num_tokens

    async def reply_ms(self) -> float:
        return 12.0

    async def own_code(self) -> OwnCode | None:
        """Two rounds more each time, of 1 + 2 + 3 ms."""
        self._num_asked += 1
        n = 2 * self._num_asked
        return OwnCode(n, n * 1.0, n * 2.0, n * 3.0) if self._tells else None


def lines() -> list[FakeTransport]:
    """One for verify rounds and one that streams, for each repeat."""
    made = []
    for _ in range(NUM_REPEATS):
        streaming = FakeTransport(lambda tokens: 100, WELCOME)
        for number in range(20):
            streaming.push(Commit(1, 32 + number, [5], step_ms=8.0))
        made += [FakeTransport(lambda tokens: 100, WELCOME), streaming]
    return made


async def test_everything_is_measured_in_each_repeat() -> None:
    """The plugin's own time is a mean of the rounds in between; connections are closed."""
    transports, shown = lines(), list[str]()
    cost = await measure_overhead(
        FakeConnector(transports), FakePlainApi(), NUM_ROUNDS, NUM_REPEATS, shown.append
    )
    assert (cost.num_repeats, cost.verify.num_rounds, cost.stream.num_rounds) == (3, 4, 4)
    assert cost.stream.step_ms == 8.0
    assert (cost.plain_token_added_ms, cost.plain_reply_added_ms) == (1.0, 4.0)
    assert cost.own == OwnCode(1, 1.0, 2.0, 3.0)
    assert len(shown) == NUM_REPEATS
    assert not any(line.is_open for line in transports)


async def test_a_server_that_does_not_tell() -> None:
    """Its own code is called not measured."""
    cost = await measure_overhead(FakeConnector(lines()), FakePlainApi(False), NUM_ROUNDS, 3, lambda _: None)
    assert cost.own is None
    assert "not measured" in describe_overhead(cost)[-1]


def test_a_rounds_cost_is_what_the_step_does_not_explain() -> None:
    """Median and 90th percentile of wall minus step."""
    cost = round_cost([Round(20.0 + added, 20.0, 0.25) for added in (0.5, 0.6, 0.7, 0.8, 5.0)])
    assert (cost.num_rounds, cost.step_ms, cost.queue_ms) == (5, 20.0, 0.25)
    assert cost.added_ms == pytest.approx(0.7)
    assert 0.8 < cost.added_p90_ms < 5.0


def one(added_ms: float, own: OwnCode | None) -> Overhead:
    verify = RoundCost(100, 20.0 + added_ms, 20.0, 0.2, added_ms, 3.0)
    return Overhead(1, verify, RoundCost(100, 9.0, 8.0, 0.0, 1.0, 1.2), 8.5, 10.0, own)


def test_repeats_are_summed_up_by_their_medians() -> None:
    """One disturbed repeat does not move the figure."""
    cost = overhead([one(added, OwnCode(1, 0.1, 0.05, added / 10)) for added in (1.5, 40.0, 1.75)])
    assert cost.verify.added_ms == 1.75
    assert cost.own == OwnCode(1, 0.1, 0.05, 0.175)


def test_the_description_carries_the_figures() -> None:
    """What is ours and what is vLLM's stand side by side."""
    text = "\n".join(describe_overhead(overhead([one(1.75, OwnCode(1, 0.1, 0.05, 0.15))])))
    assert "1.75 ms above the engine step" in text
    assert "plain vLLM, streamed token: 0.50 ms" in text
    assert "plain vLLM, request and reply: 2.00 ms" in text
    assert "+1.25 ms to a streamed token, -0.25 ms to request and reply" in text
    assert "own code: 0.30 ms a verify round" in text
