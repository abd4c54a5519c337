"""Costs of single parts, with clocks, logits and a verifier of the test's own."""

from itertools import count

import numpy as np
import pytest

from benchmarks.micro import acceptance, parts
from edge_agent.api import Sampling
from edge_agent.testing import FakeConnector, FakeTransport, fake_welcome
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Commit, Draft, Open, fingerprint

RNG = np.random.default_rng(3)
SETTINGS = Sampling(1, 1.0, seed=5)
WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(300)]))


def test_figures_are_the_clocks() -> None:
    """With a clock that ticks once a reading: one second shared by all plans, tokens or picks."""
    ticks = map(float, count())
    plans, policies = parts.control_us(num_tokens=100, repeats=1, clock=lambda: next(ticks))
    assert set(plans.values()) == {1e6 / 10}
    assert policies == {"pipesd": 1e6 / 100, "adaptive": 1e6 / 100}
    assert set(parts.pick_ms(num_picks=10, repeats=1, clock=lambda: next(ticks)).values()) == {100.0}


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


def test_the_ratio_of_two_verify_steps() -> None:
    """What is not sampling counts on both sides; each temperature has its own limit, which is named."""
    from benchmarks.micro.sampler import Cost

    cost = Cost(0.0, stock_ms=10.0, coupled_ms=13.0, rest_ms=90.0)
    assert cost.ratio == pytest.approx(1.03)
    assert "limit 1.03: met" in str(cost)
    assert "limit 1.03: MISSED" in str(Cost(0.0, 10.0, 14.0, 90.0))
    assert "limit 1.10: met" in str(Cost(1.0, 10.0, 14.0, 90.0))


async def test_all_sessions_draft_in_each_round() -> None:
    """One session more than measured goes ahead; each frame has as many drafts as asked for."""
    from benchmarks.micro.sampler import measure_step_ms

    lines = [FakeTransport(lambda tokens: 100 + len(tokens) % 7, WELCOME) for _ in range(4)]
    assert await measure_step_ms(FakeConnector(lines), 3, 5, 1.0, 6) == 0.0
    for number, line in enumerate(lines):
        [opened] = [message for message in line.sent if isinstance(message, Open)]
        assert (opened.sampling.seed, opened.sampling.temperature) == (number, 1.0)
        drafts = [message for message in line.sent if isinstance(message, Draft)]
        assert len(drafts) == 6 + 3
        assert {len(message.tokens) for message in drafts} == {5}
        assert not line.is_open


async def test_steps_that_never_are_joint_give_no_figure() -> None:
    """On a machine where sessions do not meet in one step there is nothing to report."""
    from benchmarks.micro.sampler import joint_step_ms, measure_step_ms

    def commit(step_ms: float, passes: int = 1) -> Commit:
        return Commit(1, 0, [5], passes=passes, step_ms=step_ms)

    assert joint_step_ms([commit(60.0), commit(60.2)]) == 60.2
    assert joint_step_ms([commit(60.0), commit(20.0)]) is None
    assert joint_step_ms([commit(60.0), commit(60.0, passes=2)]) is None
    lines = [FakeTransport(lambda tokens: 100, WELCOME) for _ in range(3)]
    for number, line in enumerate(lines):
        for _ in range(20):
            line.push(commit(20.0 * (number + 1)))
    with pytest.raises(CliError, match="Only 0 of 6 steps"):
        await measure_step_ms(FakeConnector(lines), 2, 2, 0.0, 6)
