"""The coupled pick found among few tokens is the one of the whole vocabulary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.sampling.coupling import noisy_scores
from pipesd_vllm.wire.noise import gumbel


def scores_of(seed: int, num_tokens: int, spread: float, ruled_out: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.0, spread, num_tokens).astype(np.float32)
    scores[rng.random(num_tokens) < ruled_out] = -np.inf
    scores[rng.integers(num_tokens)] = 1.0
    return scores


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 10**6),
    st.sampled_from([1, 7, 300, 20_000]),
    st.sampled_from([0.0, 0.5, 3.0, 20.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)
def test_the_best_token_is_that_of_all_tokens(
    rng: int, seed: int, position: int, num_tokens: int, spread: float, ruled_out: float, fp64: bool
) -> None:
    """Looking at few tokens gives the argmax over all of them, and everything close to it, each once."""
    scores = scores_of(rng, num_tokens, spread, ruled_out)
    everything = scores + gumbel(seed, position, np.arange(num_tokens), fp64=fp64)
    found = noisy_scores(scores, seed, position, fp64=fp64)
    assert found.tokens[found.best] == everything.argmax()
    assert found.scores[found.best] == everything.max()
    assert set(np.flatnonzero(everything > everything.max() - 3.0)) <= set(found.tokens.tolist())
    assert len(set(found.tokens.tolist())) == len(found.tokens)


@pytest.mark.parametrize("least", [-3.0, 0.0, 8.0])
def test_tokens_below_the_least_score_are_out(least: float) -> None:
    """However loud their noise: many or few are left, the best of them wins."""
    scores = scores_of(3, 20_000, 3.0, 0.0)
    kept = np.flatnonzero(scores >= np.float32(least))
    for position in range(50):
        noisy = scores[kept] + gumbel(5, position, kept)
        found = noisy_scores(scores, 5, position, least)
        assert found.tokens[found.best] == kept[noisy.argmax()]
        assert set(found.tokens.tolist()) <= set(kept.tolist())


def test_few_tokens_are_looked_at() -> None:
    """A distribution like a model's over 49,152 tokens needs the noise of one in twenty or so."""
    scores = scores_of(0, 49_152, 3.0, 0.0)
    found = [len(noisy_scores(scores, 5, position).tokens) for position in range(20)]
    assert np.mean(found) < 49_152 / 20


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_two_models_with_the_same_noise_agree_more_often_than_two_samples(temperature: float) -> None:
    """Coupling reaches at least (1 - TV) / (1 + TV), the bound of the paper, on random pairs."""
    rng = np.random.default_rng(1)
    agreed, bound = 0.0, 0.0
    for position in range(400):
        p = (rng.normal(0.0, 3.0, 200) / temperature).astype(np.float32)
        q = p + rng.normal(0.0, 0.5, 200).astype(np.float32)
        picks = [noisy_scores(scores, 3, position) for scores in (p, q)]
        agreed += picks[0].tokens[picks[0].best] == picks[1].tokens[picks[1].best]
        weights = [np.exp(scores - scores.max()) for scores in (p, q)]
        distance = 0.5 * np.abs(weights[0] / weights[0].sum() - weights[1] / weights[1].sum()).sum()
        bound += (1.0 - distance) / (1.0 + distance)
    assert agreed >= bound - 3 * 400**0.5 / 2
