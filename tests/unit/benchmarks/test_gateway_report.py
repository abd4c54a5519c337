"""The lines that `pipesd bench gateway` prints."""

from __future__ import annotations

from benchmarks.speed.gateway_cost import Cost, Spread
from benchmarks.speed.gateway_crowd import CrowdPlan, CrowdResult, Memory
from benchmarks.gateway_meter import CpuSplit
from benchmarks.gateway_report import describe_cost, describe_cpu, describe_crowd

MIB = 1 << 20
PLAN = CrowdPlan()


def test_a_good_run() -> None:
    """Figures with their limits."""
    memory = Memory(100 * MIB, 110 * MIB, 110 * MIB, 112 * MIB)
    counts, sizes = describe_crowd(PLAN, CrowdResult(400, 6000, 200, (), memory))
    assert counts == "200 clients, 4 answers at a time: 400 answers, 0 errors, 200 connections opened"
    assert "100.0 MiB at the start, 110.0 in the middle, 110.0 at the end, 112.0 at most: flat" in sizes
    assert describe_cpu(CpuSplit(1.0, 9.0, 30.0)).endswith("the event loop has 2.5% (limit 5%)")
    token, first = describe_cost("live", Cost(Spread(0.25, 0.4, 300), Spread(4.0, 6.0, 20)))
    assert token == "added to a streamed token (live): 0.250 ms (median of 300; p90 0.400 ms); limit 0.3 ms"
    assert first == "added to the first token (live): 4.000 ms (median of 20; p90 6.000 ms); limit 5 ms"


def test_a_bad_run() -> None:
    """The first errors are shown, growth is called so, what is unknown is said to be."""
    memory = Memory(100 * MIB, 110 * MIB, 130 * MIB, 130 * MIB)
    lines = describe_crowd(PLAN, CrowdResult(400, 6000, 200, tuple("abcde"), memory))
    assert lines[1:4] == ["  a", "  b", "  c"]
    assert "growing (+18.18%" in lines[-1]
    assert "not measured" in describe_crowd(PLAN, CrowdResult(1, 1, 1, (), None))[-1]
    assert "leave out --cloud" in describe_cpu(CpuSplit(1.0, 9.0))
