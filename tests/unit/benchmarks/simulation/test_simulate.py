"""The model, where the answer is known."""

import random

import pytest

from benchmarks.netlink.spec import LinkSpec, PathSpec
from benchmarks.pairs.agreement import TracePoint
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.simulate import simulate, simulate_all
from benchmarks.harness.rivals import parse_rivals

COSTS = Costs(gamma_s=0.008, step_s=0.040, token_s=0.0)
PATH = PathSpec(LinkSpec(delay_ms=15), LinkSpec(delay_ms=15))


def trace(num: int, agreement: float = 1.0, seed: int = 0) -> list[TracePoint]:
    rng = random.Random(seed)
    return [TracePoint(rng.random() < agreement, rng.uniform(0.5, 1.0)) for _ in range(num)]


def run(
    name: str, points: list[TracePoint], costs: Costs = COSTS, path: PathSpec = PATH
) -> tuple[float, float]:
    outcome = simulate(parse_rivals([name])[0], [points], costs, path)
    return outcome.tpt_ms, outcome.target_passes_per_token


def test_plain_streaming() -> None:
    """A step a token and one round trip in all."""
    tpt_ms, passes = run("cloud", trace(50))
    assert tpt_ms == pytest.approx(40 + 30 / 50)
    assert passes == 1.0


def test_vanilla_round() -> None:
    """With every draft right a round of 6 drafts takes drafting, round trip and step, and yields 7 tokens."""
    # The first window is drafted before the first token is there: its round yields one token less.
    tpt_ms, passes = run("vanilla:thin", trace(1 + 6 + 9 * 7))
    assert passes == pytest.approx(11 / 70)
    assert tpt_ms == pytest.approx(10 * (6 * 8 + 30 + 40) / 70, rel=0.05)


def test_published_wire_is_paid_for() -> None:
    """At 20 Mbit/s each draft token adds 116 ms to a round that nothing hides."""
    path = PathSpec(LinkSpec(delay_ms=15, mbit=20), LinkSpec(delay_ms=15))
    thin, published = (run(f"vanilla:{wire}", trace(71), path=path)[0] for wire in ("thin", "published"))
    assert published - thin == pytest.approx(10 * 6 * 290_304 * 8 / 20e3 / 71, rel=0.02)


def test_wrong_drafts_cost_passes_but_never_tokens() -> None:
    """With no draft right every pass yields one token, in every mode, and the text is complete."""
    for name in ("vanilla:thin", "pipesd:thin", "edgellm:thin", "hsl:thin", "adaptive:offload"):
        assert run(name, trace(30, 0.0))[1] == pytest.approx(1.0)
    assert run("adaptive:latency", trace(30, 0.0))[0] <= 40 + 30 / 30 + 1


@pytest.mark.parametrize("name", ["adaptive:offload", "adaptive:balanced", "adaptive:latency", "pipesd:thin"])
@pytest.mark.parametrize("seed", range(5))
def test_all_end(name: str, seed: int) -> None:
    """Whatever the trace and the losses, every text is finished with at most a pass a token."""
    path = PathSpec(LinkSpec(delay_ms=50, loss=0.05), LinkSpec(delay_ms=50, loss=0.05))
    tpt_ms, passes = run(name, trace(40, 0.8, seed), path=path)
    assert 0.0 < passes <= 1.0
    assert 0.0 < tpt_ms < 1000.0


def test_the_continuous_chain_hides_the_round_trip() -> None:
    """Several verifications under way beat one at a time where drafts are good and the link is long."""
    far = PathSpec(LinkSpec(delay_ms=60), LinkSpec(delay_ms=60))
    ours, theirs = (run(name, trace(120, 0.95), path=far)[0] for name in ("adaptive:offload", "vanilla:thin"))
    assert ours < theirs


def test_many_edges_share_steps() -> None:
    """A hundred edges take longer each than one, and far less than a hundred times as long."""
    rival = parse_rivals(["adaptive:offload"])[0]
    costs = Costs(gamma_s=0.008, step_s=0.040, token_s=0.0002)
    traces = [trace(40, 0.8, seed) for seed in range(100)]
    many = simulate(rival, traces, costs, PATH, spread_s=0.5)
    alone = simulate_all(rival, traces[:5], costs, PATH)
    assert alone.tpt_ms < many.tpt_ms < 20 * alone.tpt_ms
    assert many.engine_busy_share > alone.engine_busy_share
