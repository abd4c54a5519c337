"""Costs of single parts, with clocks and logits of the test's own."""

from itertools import count

import numpy as np
import pytest

from benchmarks.micro import acceptance, page, parts
from benchmarks.micro.front_end import front_end_costs
from edge_agent.api import Sampling
from openai_gateway.cli.errors import CliError

RNG = np.random.default_rng(3)
SETTINGS = Sampling(1, 1.0, seed=5)


def test_figures_are_the_clocks() -> None:
    """With a clock that ticks once a reading: one second shared by all plans, tokens or picks."""
    ticks = map(float, count())
    plans, policies = parts.control_us(num_tokens=100, repeats=1, clock=lambda: next(ticks))
    assert set(plans.values()) == {1e6 / 10}
    assert policies == {"pipesd": 1e6 / 100, "adaptive": 1e6 / 100}
    assert set(parts.pick_ms(num_picks=10, repeats=1, clock=lambda: next(ticks)).values()) == {100.0}
    found = parts.lookup_us([100], clock=lambda: next(ticks))
    assert [read_us for read_us, _ in found.values()] == [1e6 / 100, 1e6 / parts.LOOKUP_TOKENS]


def test_acceptance_lies_between_its_bounds() -> None:
    """A draft that is the target is always accepted; a fair one more often than one-hot drafts."""
    rows = RNG.normal(0.0, 2.0, (50, 300)).astype(np.float32)
    same = acceptance.compare([(row, row) for row in rows], SETTINGS)
    assert same.coupled == 1.0
    assert 0.0 < same.greedy < 1.0
    p = RNG.normal(0.0, 2.0, (600, 300)).astype(np.float32)
    q = p + RNG.normal(0.0, 0.5, p.shape).astype(np.float32)
    found = acceptance.compare(list(zip(p, q, strict=True)), SETTINGS)
    assert found.greedy < found.coupled < found.most + 3 * 0.5 / 600**0.5


def test_probabilities_follow_the_parameters() -> None:
    """Temperature and top-k are those of the definition."""
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    assert acceptance.probabilities(logits, SETTINGS) == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=1e-6)
    cold = Sampling(1, 0.5, top_k=2, seed=5)
    assert acceptance.probabilities(logits, cold) == pytest.approx([0.8, 0.2, 0.0, 0.0], abs=1e-6)


def test_a_session_sends_less_than_stock_streaming() -> None:
    """Both for whole answers; of a session commits and text."""
    stock, session = front_end_costs((2,), 16)
    assert (stock.kind, session.kind) == ("stock", "session")
    assert stock.num_streams == session.num_streams == 2
    assert 0 < session.bytes_down < stock.bytes_down / 2
    assert stock.deflated is not None
    assert 0 < stock.deflated < stock.bytes_down


@pytest.mark.skipif(page.chromium() is None, reason="no Chromium on this machine")
async def test_the_page_is_watched_while_an_answer_comes_in() -> None:
    """In a new chat and in one with messages: CPU, frames, a line for a person."""
    costs = [cost async for cost in page.page_costs((0, 2), 60, 300.0, "code")]
    assert [cost.num_messages for cost in costs] == [0, 2]
    for cost in costs:
        assert 0 < cost.script_ms < cost.cpu_ms
        assert len(cost.frames_ms) > 1
        assert len(str(cost)) == len(page.HEAD)


async def test_the_page_says_which_texts_there_are() -> None:
    """A kind of text that there is not is answered with those that there are."""
    with pytest.raises(CliError, match="mixed, code, list"):
        await anext(page.page_costs((0,), 10, 60.0, "poem"))
