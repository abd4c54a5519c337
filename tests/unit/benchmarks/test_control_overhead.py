"""The control plane's own cost."""

from itertools import count

from benchmarks.micro.control import format_overhead, measure


def test_the_figures_are_seconds_of_the_clock_and_printed_with_their_unit() -> None:
    """With a clock that ticks once a reading: one second shared by all plans, or by all tokens."""
    ticks = count()
    figures = measure(0.5, num_tokens=100, repeats=1, clock=lambda: float(next(ticks)))
    assert set(figures.plan_s.values()) == {1.0 / 10}
    assert figures.per_token_s == {"pipesd": 1.0 / 100, "adaptive": 1.0 / 100}
    assert figures.worst_share == 0.02
    assert "10000.0  (2.000% of 500 ms)" in format_overhead(figures)
