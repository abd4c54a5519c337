"""The cost of a coupled pick."""

from itertools import count

from benchmarks.micro.drafting import format_cost, measure


def test_a_coupled_pick_is_cheap_beside_a_draft_step() -> None:
    """The dearest parameters cost some CPU time, of the order of a draft step's at most.

    How far below its 7 ms they are is for the benchmark to say: the bound here has room for a slow machine.
    """
    assert 0.0 < measure(num_picks=20, repeats=5).worst_extra_ms < 20.0


def test_the_figures_are_milliseconds_a_token() -> None:
    """With a clock that ticks once a reading: one second shared by all picks."""
    ticks = count()
    cost = measure(num_picks=10, repeats=1, clock=lambda: float(next(ticks)))
    assert cost.greedy_ms == 100.0
    assert set(cost.coupled_ms.values()) == {100.0}
    assert "(+0.000)" in format_cost(cost)
