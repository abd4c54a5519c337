"""Costs out of traces."""

import pytest

from benchmarks.simulation.costs import Costs, fitted_costs
from edge_agent.tracing.events import Committed, Drafted, Sent, SessionStarted, TraceEvent


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
