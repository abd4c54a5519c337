"""The link model on an injected clock and generator."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.netlink.model import LinkModel, sent_by_s
from benchmarks.netlink.spec import Blackhole, LinkSpec


def link(seed: int = 0, **fields: object) -> LinkModel:
    return LinkModel(LinkSpec(**fields), random.Random(seed))  # type: ignore[arg-type]


def test_delay_alone() -> None:
    """Without a rate a packet takes the delay, whatever it weighs."""
    model = link(delay_ms=25)
    assert model.offer(1.0, 1500) == pytest.approx(1.025)
    assert model.offer(1.0, 9) == pytest.approx(1.025)


def test_packets_queue_behind_each_other() -> None:
    """At 12 kbit a millisecond a packet of 1500 bytes takes 1 ms, and the next begins after it."""
    model = link(mbit=12, delay_ms=10)
    assert [model.offer(0.0, 1500) for _ in range(3)] == pytest.approx([0.011, 0.012, 0.013])
    assert model.offer(5.0, 1500) == pytest.approx(5.011)


def test_a_full_queue_drops() -> None:
    """What finds more than the limit waiting is lost and counted; later there is room again."""
    model = link(mbit=12, queue_kb=3)
    arrivals = [model.offer(0.0, 1500) for _ in range(4)]
    assert [arrival is None for arrival in arrivals] == [False, False, True, True]
    assert model.counts.num_dropped == 2
    assert model.offer(0.002, 1500) == pytest.approx(0.003)


def test_loss_is_seeded() -> None:
    """The same seed loses the same packets, about as many as asked for."""
    lost = [
        [link_.offer(i, 100) is None for i in range(2000)] for link_ in (link(3, loss=0.1), link(3, loss=0.1))
    ]
    assert lost[0] == lost[1]
    assert 150 < sum(lost[0]) < 250


def test_blackhole() -> None:
    """Within it nothing arrives, before and after everything does."""
    model = link(blackholes=(Blackhole(1.0, 0.5),))
    assert [model.offer(t, 1) is None for t in (0.9, 1.0, 1.4, 1.5)] == [False, True, True, False]


def test_trace_of_rates() -> None:
    """A packet that outlasts a step of the trace goes on at the next step's rate; the trace repeats."""
    spec = LinkSpec(mbit_trace=(8.0, 80.0), trace_step_s=1.0)
    assert sent_by_s(spec, 0.0, 500_000) == pytest.approx(0.5)
    assert sent_by_s(spec, 0.5, 1_000_000) == pytest.approx(1.05)
    assert sent_by_s(spec, 2.0, 500_000) == pytest.approx(2.5)


def test_one_rate_only() -> None:
    """A constant rate and a trace contradict each other."""
    with pytest.raises(ValueError, match="not both"):
        LinkSpec(mbit=1.0, mbit_trace=(1.0,))


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(1, 3000)), max_size=50),
    st.floats(0, 50),
    st.floats(0.5, 100),
)
def test_never_reorders_and_never_early(
    packets: list[tuple[float, int]], jitter_ms: float, mbit: float
) -> None:
    """Packets arrive in the order they were sent, none before delay and transmission are over."""
    model = link(jitter_ms=jitter_ms, mbit=mbit, delay_ms=5)
    now_s, last_s = 0.0, 0.0
    for wait_s, num_bytes in packets:
        now_s += wait_s
        arrival_s = model.offer(now_s, num_bytes)
        assert arrival_s is not None
        assert arrival_s >= max(last_s, now_s + 0.005 + num_bytes * 8 / mbit / 1e6 - 1e-9)
        last_s = arrival_s
