"""The token-batch scheduler (PipeSD, section 3.2)."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.control import LinkEstimate
from edge_agent.control.batch_schedule import BatchPlan, BatchScheduler, plan_batches

COSTS = st.one_of(
    st.tuples(*[st.integers(0, 8).map(float)] * 3),  # exact in floats: many ties
    st.tuples(*[st.floats(0.0, 2.0, allow_subnormal=False)] * 3),
)
LINK = LinkEstimate(alpha_s=0.002, beta_s_per_token=0.010, gamma_s=0.010)


def compositions(num_tokens: int) -> Iterator[tuple[int, ...]]:
    """All ways to cut a window into batches."""
    if num_tokens == 0:
        yield ()
    for first in range(1, num_tokens + 1):
        for rest in compositions(num_tokens - first):
            yield (first, *rest)


def finishing_time(sizes: tuple[int, ...], alpha_s: float, beta_s: float, gamma_s: float) -> float:
    """The cost model, played through."""
    drafted, sent_s = 0, 0.0
    for size in sizes:
        drafted += size
        sent_s = max(sent_s, gamma_s * drafted) + alpha_s + beta_s * size
    return sent_s


def scheduled(*links: LinkEstimate, window: int = 20) -> BatchScheduler:
    """A scheduler that sees one link a window and then stays with the last."""
    seen = list(links)
    return BatchScheduler(lambda: seen.pop(0) if len(seen) > 1 else seen[0], window)


@settings(max_examples=40, deadline=None)
@given(costs=COSTS)
@pytest.mark.parametrize("num_tokens", range(1, 13))
def test_no_other_cut_is_better(num_tokens: int, costs: tuple[float, float, float]) -> None:
    """Against all compositions: none finishes earlier, none as early with fewer batches."""
    plan = plan_batches(num_tokens, *costs)
    outcomes = [(finishing_time(sizes, *costs), len(sizes)) for sizes in compositions(num_tokens)]
    least_s = min(finish_s for finish_s, _ in outcomes)
    tied = least_s * (1 + 1e-9) + 1e-12
    assert plan.finish_s == pytest.approx(least_s, rel=1e-12)
    assert finishing_time(plan.batch_sizes, *costs) <= tied * (1 + 1e-12)
    assert len(plan.batch_sizes) <= min(count for finish_s, count in outcomes if finish_s <= least_s)


@settings(max_examples=200, deadline=None)
@given(
    num_tokens=st.integers(1, 64),
    costs=st.one_of(st.tuples(*[st.floats(0.0, 1e12)] * 3), st.tuples(*[st.floats(0.0, 0.1)] * 3)),
)
def test_a_plan_is_a_cut_of_the_window(num_tokens: int, costs: tuple[float, float, float]) -> None:
    """Whatever the costs, down to the smallest floats: every draft is sent once, in order, the batches take
    the time that the plan says, and never longer than one batch."""
    plan = plan_batches(num_tokens, *costs)
    assert sum(plan.batch_sizes) == num_tokens
    assert min(plan.batch_sizes) >= 1
    assert plan.boundaries == tuple(sum(plan.batch_sizes[: i + 1]) for i in range(len(plan.batch_sizes)))
    assert plan.finish_s <= plan.single_batch_s * (1 + 1e-9)
    assert finishing_time(plan.batch_sizes, *costs) <= plan.finish_s * (1 + 2e-9) + 1e-11


def test_a_fast_stream_keeps_only_the_last_draft_apart() -> None:
    """Without start-up cost the last batch is one token; the rest goes out in one, not in nineteen."""
    assert plan_batches(20, 0.0, 1e-5, 0.007).batch_sizes == (19, 1)


def test_a_free_link_gets_one_batch() -> None:
    """With nothing to gain the tie goes to the fewest batches."""
    assert plan_batches(20, 0.0, 0.0, 0.007) == BatchPlan((20,), (20,), 0.14, 0.14)


def test_the_pipeline_hides_a_slow_uplink() -> None:
    """At the reproduction's 116 ms a token against 43 ms of drafting, most drafting is hidden."""
    plan = plan_batches(20, 0.025, 0.116, 0.043)
    assert plan.saving_s > 0.7
    assert plan.batch_sizes[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [(0, 0.0, 0.0, 0.0), (4, -1e-9, 0.0, 0.0), (4, float("nan"), 0.0, 0.0), (4, 0.0, float("inf"), 0.0)],
)
def test_costs_that_cannot_be_are_refused(arguments: tuple[int, float, float, float]) -> None:
    """An empty window, negative and endless costs raise instead of looping."""
    with pytest.raises(ValueError, match="window"):
        plan_batches(*arguments)


def test_before_the_first_measurement_the_window_is_one_batch() -> None:
    """Nothing known, nothing split: the only boundary is the end of the paper's N = 20."""
    scheduler = scheduled(LinkEstimate(gamma_s=0.007))
    assert [n for n in range(1, 41) if scheduler.is_boundary(n)] == [20, 40]


def test_boundaries_follow_the_plan_and_repeat() -> None:
    """A window that outgrows N goes through the same plan again."""
    scheduler = scheduled(LINK, window=6)
    boundaries = scheduler.plan.boundaries
    assert len(boundaries) > 1
    assert [n for n in range(1, 13) if scheduler.is_boundary(n)] == [
        *boundaries,
        *(6 + b for b in boundaries),
    ]


@pytest.mark.parametrize("moved", ["alpha_s", "beta_s_per_token", "gamma_s"])
@pytest.mark.parametrize(("factor", "replans"), [(1.19, 0), (0.81, 0), (1.21, 1), (0.79, 1)])
def test_the_plan_is_made_again_only_beyond_a_fifth(moved: str, factor: float, replans: int) -> None:
    """Each of the three costs, in both directions: 19 % keeps the plan, 21 % replaces it."""
    costs = {"alpha_s": 0.002, "beta_s_per_token": 0.010, "gamma_s": 0.010}
    scheduler = scheduled(LINK, LinkEstimate(**{**costs, moved: costs[moved] * factor}))
    before = scheduler.num_plans
    scheduler.finish_window(20)
    assert scheduler.num_plans - before == replans


def test_slow_drift_is_measured_from_the_plan() -> None:
    """Ten steps of 5 % add up: the comparison is with the costs planned for, not with the last seen."""
    links = [LinkEstimate(0.002, 0.010, 0.010 * 1.05**i) for i in range(11)]
    scheduler = scheduled(*links)
    for _ in range(10):
        scheduler.finish_window(20)
    assert scheduler.num_plans == 1 + 2


def test_n_is_the_rounded_mean_of_the_last_hundred_rounds() -> None:
    """Section 3.2: N follows the draft lengths, older rounds drop out, empty ones do not count."""
    scheduler = scheduled(LINK)
    assert scheduler.window == 20
    scheduler.finish_window(0)
    assert scheduler.window == 20
    for length in [9] * 50 + [4] * 50:
        scheduler.finish_window(length)
    assert scheduler.window == round(6.5)
    for _ in range(50):
        scheduler.finish_window(4)
    assert scheduler.window == 4
    assert scheduler.plan.boundaries[-1] == 4
