"""How close two tokens were."""

import numpy as np
import pytest

from benchmarks.exactness.margin import Margin, margin
from edge_agent.generation import SamplingSettings
from edge_agent.noise import gumbel

LOGITS = {0: 3.0, 1: 2.0, 2: 1.0, 3: -1.0}
PROMPT, GENERATED = (0, 3), (1, 1)


def lead(sampling: SamplingSettings, plain: int = 0, ours: int = 1) -> Margin:
    found = margin(LOGITS, sampling, PROMPT, GENERATED, plain, ours)
    assert found is not None
    return found


def test_greedy_is_the_difference_of_logits() -> None:
    """Without noise and without an edge."""
    assert lead(SamplingSettings(8, top_p=0.5)) == Margin(pytest.approx(1.0))


def test_penalties_count() -> None:
    """Each as the target applies it: repetition by the logit's sign, prompt included; the others by count."""
    assert lead(SamplingSettings(8, repetition_penalty=2.0)).by_score == pytest.approx(1.5 - 1.0)
    assert lead(SamplingSettings(8, repetition_penalty=2.0), 2, 3).by_score == pytest.approx(1.0 + 2.0)
    assert lead(SamplingSettings(8, frequency_penalty=0.5)).by_score == pytest.approx(1.0 + 1.0)
    assert lead(SamplingSettings(8, presence_penalty=0.5)).by_score == pytest.approx(1.0 + 0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_noise_of_the_position_counts(temperature: float) -> None:
    """In nats of logit: the noise is scaled by the temperature."""
    noise = gumbel(7, len(PROMPT) + len(GENERATED), np.array([0, 1]))
    expected = 1.0 + temperature * float(noise[0] - noise[1])
    assert lead(SamplingSettings(8, temperature, seed=7)) == Margin(pytest.approx(expected))


def test_the_edge_of_the_nucleus() -> None:
    """A token that just about is in or out explains a difference, however far the scores are apart."""
    shares = np.exp(list(LOGITS.values())) / np.exp(list(LOGITS.values())).sum()
    within = SamplingSettings(8, 1.0, top_p=float(shares[0]) - 0.01, seed=7)
    assert lead(within).to_edge == pytest.approx(0.0, abs=1e-4)
    assert lead(within).is_tie(0.001)
    wide = SamplingSettings(8, 1.0, top_p=float(shares[:3].sum()) - 0.01, seed=7)
    assert lead(wide).to_edge == pytest.approx(1.0, abs=1e-4)


def test_what_is_not_known() -> None:
    """A server may tell the most likely tokens only."""
    assert margin(LOGITS, SamplingSettings(8), PROMPT, GENERATED, 0, 9) is None
    penalised = SamplingSettings(8, presence_penalty=1.0)
    assert margin(LOGITS, penalised, (70, 80), (90,), 0, 1) == Margin(1.0)


def test_a_tie_needs_one_small_distance() -> None:
    """Either of the two."""
    assert Margin(0.0004).is_tie(0.001)
    assert not Margin(-0.4, 0.2).is_tie(0.001)
    assert Margin(-0.4, -0.0002).is_tie(0.001)
