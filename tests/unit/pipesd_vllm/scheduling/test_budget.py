"""Which drafts a step verifies: against every other choice, and with costs that are learnt."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_vllm.scheduling.budget import Claim, DraftRecord, StepCosts, allot

CHAINS = st.lists(st.floats(0.05, 1.0), max_size=4).map(lambda chances: sorted(chances, reverse=True))


def rate(claims: list[Claim], counts: tuple[int, ...], base: float, row_s: float) -> float:
    """Value a second of a step of 1 s and `row_s` a draft."""
    value = base + sum(c.weight * sum(c.survivals[:n]) for c, n in zip(claims, counts, strict=True))
    return value / (1.0 + row_s * sum(counts))


@given(
    st.lists(st.tuples(CHAINS, st.floats(0.2, 1.0)), max_size=3),
    st.floats(1.0, 8.0),
    st.floats(0.0, 0.5),
    st.integers(0, 12),
)
def test_no_other_choice_yields_more(
    drawn: list[tuple[list[float], float]], base: float, row_s: float, most: int
) -> None:
    """Of all numbers of drafts that there is room for, none has more value a second."""
    claims = [Claim(*each) for each in drawn]
    counts, _ = allot(claims, base, lambda n: 1.0 + row_s * n, most)
    assert sum(counts) <= most
    others = product(*(range(len(claim.survivals) + 1) for claim in claims))
    best = max(rate(claims, other, base, row_s) for other in others if sum(other) <= most)
    assert rate(claims, tuple(counts), base, row_s) == pytest.approx(best)


def test_free_rows_take_all_drafts_and_dear_ones_none() -> None:
    """At full load a row makes everybody wait for longer than the draft is worth to one."""
    claims = [Claim([0.9, 0.8, 0.7])] * 16
    assert allot(claims, 16.0, lambda n: 1.0, 999) == ([3] * 16, 0.0)
    counts, price = allot(claims, 16.0, lambda n: 16.0 + n, 999)
    assert counts == [0] * 16
    assert price == pytest.approx(1.0)


def test_a_step_takes_no_longer_than_it_may() -> None:
    """Drafts that would pay are left out beyond that, and a further one is as dear as the first left out."""
    claims = [Claim([0.9, 0.8, 0.7, 0.6])]
    assert allot(claims, 2.0, lambda n: 1.0 + 0.01 * n, 99, most_s=1.025) == ([2], pytest.approx(0.7))
    assert allot(claims, 2.0, lambda n: 1.0 + 0.01 * n, 99, most_s=0.5).counts == [0]
    assert allot(claims, 2.0, lambda n: 1.0 + 0.01 * n, 99).counts == [4]


def test_a_session_streams_until_it_drafts_and_long_after() -> None:
    """Some hundred passes without a draft make it one of those who are not to pay for others'."""
    record = DraftRecord()
    assert record.streams
    record.observe([200] * 4, 3, 4)
    assert not record.streams
    for _ in range(300):
        record.observe([], 0, 1)
    assert record.streams


def test_the_surest_drafts_go_first() -> None:
    """Whosever they are; of two alike, that of the session which gets fewer tokens a pass."""
    claims = [Claim([0.9, 0.4]), Claim([0.6, 0.5]), Claim([0.6], weight=0.5)]
    assert allot(claims, 3.0, lambda n: 1.0, 3).counts == [1, 2, 0]


def test_rows_up_to_a_graph_size_are_free() -> None:
    """A step that is padded anyway takes drafts that would not pay for a larger one."""
    costs = StepCosts([8, 16])
    for rows in [8, 16] * 50:
        costs.observe(rows, 0, 0.08 + 0.01 * rows)
    claims = [Claim([0.3] * 10)] * 4
    counts, _ = allot(claims, 6.0, lambda n: costs.seconds(6 + n, 0), 99)
    assert sum(counts) == 2


@pytest.mark.parametrize(
    ("base_s", "row_s", "entry_s"), [(0.0071, 2.1e-5, 3.9e-8), (0.08, 0.005, 0.0), (0.03, 0.0, 0.0)]
)
def test_costs_are_learnt_from_noisy_steps(base_s: float, row_s: float, entry_s: float) -> None:
    """What 32 more rows and 50,000 more entries cost, to a twentieth of a step, with noise and outliers."""
    rng, costs = random.Random(1), StepCosts()
    for number in range(600):
        rows, context = rng.randint(4, 120), rng.randint(1_000, 100_000)
        noise = rng.gauss(1.0, 0.03) * (10.0 if number % 97 == 50 else 1.0)
        costs.observe(rows, context, (base_s + row_s * rows + entry_s * context) * noise)
    at = costs.seconds(32, 20_000)
    assert at == pytest.approx(base_s + row_s * 32 + entry_s * 20_000, rel=0.05)
    assert costs.seconds(64, 20_000) - at == pytest.approx(row_s * 32, abs=0.05 * at)
    assert costs.seconds(32, 70_000) - at == pytest.approx(entry_s * 50_000, abs=0.05 * at)
    assert costs.seconds(33, 20_000) >= at


def test_a_load_that_does_not_vary_unlearns_nothing() -> None:
    """A thousand steps of one size leave what a row costs as it was."""
    rng, costs = random.Random(1), StepCosts()
    for _ in range(200):
        rows = rng.randint(4, 64)
        costs.observe(rows, 0, 0.08 + 0.005 * rows)
    for _ in range(1000):
        costs.observe(16, 0, 0.16 * rng.gauss(1.0, 0.02))
    assert costs.seconds(48, 0) - costs.seconds(16, 0) == pytest.approx(0.16, rel=0.1)


def test_an_edge_that_overrates_its_drafts_is_believed_no_longer() -> None:
    """Forty passes of junk said to be certain: hardly any worth is left, and a busy server caps them at 0."""
    honest, junk = DraftRecord(), DraftRecord()
    for _ in range(40):
        honest.observe([250] * 4, 4, 5)
        junk.observe([255] * 4, 0, 1)
    assert honest.survivals([250])[0] > 0.95
    assert junk.survivals([255])[0] < 0.15
    assert junk.cap(0.2) == 0
    assert (honest.cap(0.1) or 0) >= 4


def test_an_edge_that_underrates_its_drafts_is_corrected_too() -> None:
    """What is said to be a coin's toss and is always right."""
    record = DraftRecord()
    for _ in range(100):
        record.observe([128] * 2, 2, 3)
    assert record.survivals([128])[0] > 0.9


def test_a_session_begins_with_what_its_tenants_drafts_were_worth() -> None:
    """A key whose sessions sent junk gets no fresh start by opening another; others are believed."""
    junk, honest = DraftRecord(), DraftRecord()
    for _ in range(20):
        first, other = DraftRecord(junk), DraftRecord(honest)
        for _ in range(4):
            first.observe([255] * 4, 0, 1)
            other.observe([230] * 4, 4, 5)
    assert DraftRecord(junk).survivals([255])[0] < 0.2
    assert DraftRecord(honest).survivals([230])[0] > 0.85


def test_a_tenant_told_to_send_no_drafts_is_tried_again() -> None:
    """Its record fades in passes without drafts, for sessions that run and for later ones."""
    junk = DraftRecord()
    running = DraftRecord(junk)
    for _ in range(100):
        running.observe([255] * 4, 0, 1)
    assert DraftRecord(junk).cap(0.2) == running.cap(0.2) == 0
    for _ in range(100):
        running.observe([], 0, 1)
    assert DraftRecord(junk).cap(0.2) == 0  # not at once
    for _ in range(300):
        running.observe([], 0, 1)
    assert DraftRecord(junk).cap(0.2)
    assert running.cap(0.2)
    other = DraftRecord(junk)
    for _ in range(10):
        other.observe([255] * 4, 4, 5)
    assert other.survivals([255])[0] > 0.8


def test_old_failures_are_forgotten() -> None:
    """Passes without drafts let a session be tried again."""
    record = DraftRecord()
    for _ in range(100):
        record.observe([255], 0, 1)
    worst = record.survivals([255])[0]
    for _ in range(400):
        record.observe([], 0, 1)
    assert record.survivals([255])[0] > 5 * worst


def test_survivals_never_rise_and_end_below_one() -> None:
    """Edges may say what they want, or nothing."""
    record = DraftRecord()
    survivals = record.survivals([255, None, 0, 255, None])
    assert survivals == sorted(survivals, reverse=True)
    assert survivals[0] < 1.0
    assert record.survivals([]) == []


def test_where_rows_are_free_there_is_no_cap() -> None:
    """None: any number."""
    assert DraftRecord().cap(0.0) is None
