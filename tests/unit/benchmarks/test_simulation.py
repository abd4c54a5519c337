"""The discrete-event model, where the answer is known, and beside records of the testbed."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from benchmarks.harness.rivals import parse_rivals
from benchmarks.netlink.model import LinkSpec, PathSpec
from benchmarks.reports.records import Description, RunRecord
from benchmarks.simulation.agreement import TracePoint
from benchmarks.simulation.check import compare
from benchmarks.simulation.costs import Costs, fitted_costs
from benchmarks.simulation.simulate import simulate, simulate_all
from benchmarks.simulation.traces import TraceSet, read_traces, record_traces, write_traces
from edge_agent.testing import FakeDrafter
from edge_agent.tracing import Committed, Drafted, Sent, SessionStarted, TraceEvent
from openai_gateway.cli.errors import CliError
from tests.unit.benchmarks.factories import description, record
from tests.unit.benchmarks.test_pairs import VOCABULARY, counting, counting_badly

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


SETTINGS = {
    "sequence_threshold": 0.3,
    "token_threshold": 0.35,
    "max_ahead": 16,
    "patience_ms": 500,
    "max_window": 8,
    "draft_threads": 1,
}


def with_settings(described: Description) -> Description:
    return msgspec.structs.replace(described, settings=SETTINGS)


def test_compares_drafting_rivals_on_known_prompts() -> None:
    """Plain streaming and prompts without a trace are left out; the error is relative to the testbed."""
    runs: list[RunRecord] = [
        record("cloud"),
        record("vanilla"),
        record("vanilla", prompt="other", total_s=99.0),
    ]
    traces = {"p": [TracePoint(True, 0.9)] * 10}
    (compared,) = compare(runs, traces, with_settings(description()), COSTS)
    assert (compared.label, compared.measured_ms) == ("vanilla:thin", 100.0)
    assert compared.error == pytest.approx(compared.simulated_ms / 100.0 - 1.0)
    assert 10.0 < compared.simulated_ms < 40.0


def round_of(start_s: float, num: int) -> list[TraceEvent]:
    """`num` drafts of 8 ms, a step of 20 ms and 1 ms a token, 30 ms of link, 2 ms of anything else."""
    drafted = [Drafted(1, start_s + i * 0.008, start_s + (i + 1) * 0.008, i, 1, 0.9) for i in range(num)]
    sent_s = start_s + num * 0.008
    step_ms = 20.0 + num
    answered_s = sent_s + 0.032 + step_ms / 1e3
    return [
        *drafted,
        Sent(1, sent_s, num, 0, 1, True, 30),
        Committed(1, answered_s, 0, [1], 1, num, 1, 0.0, step_ms, 20),
    ]


def test_fit() -> None:
    """Gamma, the step's two parts and the rest are found again."""
    events: list[TraceEvent] = [
        SessionStarted(1, 0.0, "r", 1, "vanilla", "offload"),
        Committed(1, 0.5, 0, [1], 1, 0, 0, 0.0, 120.0, 20),
    ]
    events += [event for i in range(12) for event in round_of(1.0 + i, 1 + i % 6)]
    costs = fitted_costs([events], rtt_s=0.030)
    assert costs.prefill_s == pytest.approx(0.100)
    assert costs.gamma_s == pytest.approx(0.008)
    assert costs.token_s == pytest.approx(0.001)
    assert costs.step_s == pytest.approx(0.020)
    assert costs.front_s == pytest.approx(0.002)
    assert Costs(0.008, 0.02, 0.001).pass_s(5) == pytest.approx(0.024)


def test_nothing_to_fit() -> None:
    """Traces without a round are refused."""
    with pytest.raises(ValueError, match="no verify rounds"):
        fitted_costs([[]], rtt_s=0.0)


def test_recorded_and_read_back(tmp_path: Path) -> None:
    """What the draft says at each position of the target's own text, by prompt."""
    made = record_traces(
        FakeDrafter(counting, VOCABULARY), FakeDrafter(counting_badly, VOCABULARY), {"a": [0], "b": [5]}, 5
    )
    write_traces(tmp_path / "t.json", TraceSet("bad", made))
    read = read_traces(tmp_path / "t.json")
    assert read.draft == "bad"
    assert read.traces["a"] == [TracePoint(True, 0.9)] * 4 + [TracePoint(False, 0.2)]
    assert all(point.agrees for point in read.traces["b"])


def test_no_traces(tmp_path: Path) -> None:
    """It says how to record some."""
    with pytest.raises(CliError, match="--record"):
        read_traces(tmp_path / "none.json")
