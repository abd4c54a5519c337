"""Confidence of sampled drafts, learnt from what became of them."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.control import CalibratedConfidence, CheckedDraft, RawConfidence

PROBABILITY = st.floats(0.0, 1.0)


@settings(deadline=None)
@given(
    st.lists(st.builds(CheckedDraft, PROBABILITY, st.booleans()), max_size=300),
    st.lists(PROBABILITY, min_size=2),
)
def test_estimates_never_fall_as_the_probability_rises(
    checked: list[CheckedDraft], asked: list[float]
) -> None:
    """Whatever was observed, in whatever order, the estimate is a monotone probability."""
    confidence = CalibratedConfidence()
    confidence.observe(checked)
    estimates = [confidence.estimate(probability) for probability in sorted(asked)]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(estimates))
    assert all(0.0 < estimate <= 1.0 for estimate in estimates)


def test_the_true_rates_are_learnt() -> None:
    """Drafts that are right more often than they say are trusted more, within a few hundredths."""
    rng, confidence = random.Random(2), CalibratedConfidence()
    for _ in range(5000):
        probability = rng.random()
        confidence.observe([CheckedDraft(probability, rng.random() < probability**0.5)])
    for probability in (0.25, 0.45, 0.65, 0.85):
        assert confidence.estimate(probability) == pytest.approx(probability**0.5, abs=0.07)


def test_a_new_text_is_learnt_over_an_old_one() -> None:
    """Old counts lose their weight: after a change the estimate follows."""
    confidence = CalibratedConfidence()
    confidence.observe([CheckedDraft(0.55, True)] * 3000)
    assert confidence.estimate(0.55) > 0.9
    confidence.observe([CheckedDraft(0.55, False)] * 1500)
    assert confidence.estimate(0.55) < 0.15


def test_before_anything_was_seen_the_drafts_own_probability_holds() -> None:
    """Without observations the estimate is the probability itself."""
    confidence = CalibratedConfidence()
    for probability in (0.05, 0.3, 0.5, 0.95):
        assert confidence.estimate(probability) == pytest.approx(probability)


def test_greedy_probabilities_are_left_alone() -> None:
    """The paper's thresholds are about the draft's own probability."""
    confidence = RawConfidence()
    confidence.observe([CheckedDraft(0.5, False)] * 100)
    assert confidence.estimate(0.5) == 0.5


def test_what_is_not_a_number_counts_as_no_confidence() -> None:
    """NaN is estimated and observed as a probability of 0, and spoils no other estimate."""
    confidence = CalibratedConfidence()
    assert confidence.estimate(math.nan) == confidence.estimate(0.0)
    confidence.observe([CheckedDraft(math.nan, False)])
    assert confidence.estimate(0.5) == pytest.approx(0.5, abs=1e-3)
