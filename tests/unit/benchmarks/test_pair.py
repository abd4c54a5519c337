"""Measuring through real gateways and the real client, on scripted generations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from benchmarks.harness.clients import TimedAnswer, connected, stream_completion
from benchmarks.figures import Way
from openai_gateway.cli.errors import CliError
from tests.unit.benchmarks.conftest import MAX_MODEL_LEN, ConnectPair

TEXT = "hello world, hello you"
PROMPT = (5, 6, 7)


async def test_all_ways_give_figures(
    connect_pair: ConnectPair, token_ids: Callable[[str], Sequence[int]]
) -> None:
    """Both ends see the same prompt and number of tokens; the agent's figures come with ours only."""
    num_tokens = len(token_ids(TEXT))
    async with connect_pair(TEXT, TEXT) as pair:
        ours, plain, local = [await pair.measure(way, PROMPT, num_tokens) for way in Way]
        assert ours.text == plain.text == TEXT
        assert local.text == ""
        assert all(m.sample.tpt_ms > 0 and m.sample.ttft_ms > 0 for m in (ours, plain, local))
        assert ours.sample.draft.target_passes_per_token == pytest.approx(-(-num_tokens // 3) / num_tokens)
        assert plain.sample.draft.acceptance_rate is None
        with pytest.raises(KeyError):
            pair.recorder.take("local")


async def test_token_text(connect_pair: ConnectPair, token_ids: Callable[[str], Sequence[int]]) -> None:
    """Tokens are shown as text; special ones have none."""
    async with connect_pair(TEXT, TEXT) as pair:
        assert "".join(pair.token_text(token) for token in token_ids("fox")) == "fox"
        assert pair.token_text(2) == ""


async def test_a_refusal_says_who_and_why(connect_pair: ConnectPair) -> None:
    """A prompt that does not fit ends in one sentence."""
    async with connect_pair(TEXT, TEXT) as pair:
        with pytest.raises(CliError, match=r"127\.0\.0\.1.* refused .*context length"):
            await pair.measure(Way.CLOUD, PROMPT, MAX_MODEL_LEN + 1)


async def test_a_server_that_is_gone() -> None:
    """Nobody listening ends in one sentence."""
    async with connected("http://127.0.0.1:9/v1", None) as client:
        with pytest.raises(CliError, match="does not answer"):
            await stream_completion(client, "any", PROMPT, 1)


def test_times_of_an_answer() -> None:
    """TPT is the whole time over all tokens, the first one's included."""
    sample = TimedAnswer("id", "text", 10, 0.05, 0.2).sample()
    assert (sample.tpt_ms, sample.ttft_ms) == (20.0, 50.0)


def test_an_empty_answer() -> None:
    """Nothing is divided by zero."""
    with pytest.raises(CliError, match="without a token"):
        TimedAnswer("id", "", 0, 0.0, 0.0).sample()
