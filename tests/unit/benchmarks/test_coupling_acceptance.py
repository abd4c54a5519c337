"""Acceptance of coupled drafts, on made-up logits."""

import numpy as np
import pytest

from benchmarks.micro.acceptance import compare, format_acceptance, probabilities
from edge_agent.generation import SamplingSettings

RNG = np.random.default_rng(3)
SETTINGS = SamplingSettings(1, 1.0, seed=5)


def test_a_draft_that_is_the_target_is_always_accepted() -> None:
    """Equal logits give equal picks: all figures but the greedy one are 1."""
    rows = RNG.normal(0.0, 2.0, (50, 300)).astype(np.float32)
    found = compare([(row, row) for row in rows], SETTINGS)
    assert (found.num_positions, found.coupled) == (50, 1.0)
    assert found.most == pytest.approx(1.0)
    assert 0.0 < found.greedy < 1.0


def test_coupling_lies_between_its_bounds() -> None:
    """On a fair draft coupling beats one-hot drafts and stays below what can be reached, within noise."""
    p = RNG.normal(0.0, 2.0, (600, 300)).astype(np.float32)
    q = p + RNG.normal(0.0, 0.5, p.shape).astype(np.float32)
    found = compare(list(zip(p, q, strict=True)), SETTINGS)
    assert found.greedy < found.coupled < found.most + 3 * 0.5 / 600**0.5
    assert f"coupled {found.coupled:.3f}" in format_acceptance(SETTINGS, found)


def test_probabilities_follow_the_parameters() -> None:
    """Temperature and top-k are those of the definition."""
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    assert probabilities(logits, SETTINGS) == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=1e-6)
    cold = SamplingSettings(1, 0.5, top_k=2, seed=5)
    assert probabilities(logits, cold) == pytest.approx([0.8, 0.2, 0.0, 0.0], abs=1e-6)
