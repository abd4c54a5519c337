"""What is added on the way: the statistics by hand, both measurements on scripted generations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.gateway_client import StreamedChat
from benchmarks.speed.gateway_cost import (
    Cost,
    Spread,
    added_in_an_answer,
    measure_live_cost,
    measure_pure_cost,
    spread,
)
from benchmarks.gateway_run import instant_generator
from benchmarks.harness.recorder import Recording
from edge_agent.fake_generator import FakeGenerator
from edge_agent.generation import GenerationRequest, SamplingSettings
from openai_gateway.cli.errors import CliError

REQUEST = GenerationRequest("one", (5, 6), SamplingSettings(8))


def silent(_: str) -> None:
    pass


def test_added_in_an_answer() -> None:
    """The first token's time counts from both starts; each later piece from when it was given."""
    recording = Recording(REQUEST, started_s=10.001, given_s=[10.1, 10.2, 10.3])
    answer = StreamedChat("one", 10.0, (10.103, 10.2005, 10.3002), 10.31)
    ttft_ms, token_ms = added_in_an_answer(recording, answer)
    assert ttft_ms == pytest.approx(4.0)
    assert token_ms == pytest.approx((0.5, 0.2))


def test_joined_pieces_are_left_out() -> None:
    """Pieces that cannot be told apart give no sample, the first token still does."""
    recording = Recording(REQUEST, started_s=0.0, given_s=[1.0, 2.0, 3.0])
    assert added_in_an_answer(recording, StreamedChat("one", 0.0, (1.5, 3.5), 4.0)) == (500.0, ())


def test_spread_and_limits() -> None:
    """Median and 90th percentile; both medians must keep their limit."""
    samples = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (samples.median, samples.num) == (3.0, 5)
    assert 4.0 < samples.p90 < 100.0
    good, slow = Spread(0.2, 9.0, 5), Spread(6.0, 9.0, 5)
    assert Cost(good, good).is_within_limits
    assert not Cost(good, slow).is_within_limits
    assert not Cost(slow, good).is_within_limits


async def test_both_measurements() -> None:
    """On real gateways: as many samples as answers, and of the live one as pieces."""
    pure = await measure_pure_cost(instant_generator(16), 16, 3, silent)
    assert (pure.token_ms.num, pure.ttft_ms.num) == (3, 3)
    assert pure.token_ms.median > 0
    live = await measure_live_cost(instant_generator(16), 16, 2, silent)
    assert (live.token_ms.num, live.ttft_ms.num) == (2 * 15, 2)
    assert live.token_ms.median > 0


async def test_no_answer_no_figures(make_fake: Callable[[str], FakeGenerator]) -> None:
    """A gateway that refuses is an error in one sentence."""
    with pytest.raises(CliError, match=r"through the gateway failed: HTTP 400"):
        await measure_live_cost(make_fake(""), 4, 2, silent)
