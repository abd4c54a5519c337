"""Min-p, top-k and top-p by thresholds, against sorting everything."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.sampling.restriction import least_kept


def kept_by_sorting(scores: np.ndarray, min_p: float, top_k: int, top_p: float) -> set[int]:
    """vLLM's order: min-p, then top-k, then top-p on what is left."""
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    best = float(scores[order[0]])
    if min_p:
        order = [i for i in order if scores[i] >= best + math.log(min_p)]
    if top_k:
        order = order[:top_k]
    weights = np.exp(scores[order].astype(np.float64) - best)
    before = np.cumsum(weights) - weights
    return {token for token, mass in zip(order, before, strict=True) if mass < top_p * weights.sum()}


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([3, 50, 9000]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([0, 1, 2, 40, 20_000]),
    st.sampled_from([1.0, 0.97, 0.9, 0.3, 0.01]),
)
def test_the_same_tokens_are_kept_as_by_sorting(
    rng: int, num_tokens: int, min_p: float, top_k: int, top_p: float
) -> None:
    """Whatever the parameters, the threshold keeps the tokens that sorting keeps."""
    scores = np.random.default_rng(rng).normal(0.0, 3.0, num_tokens).astype(np.float32)
    least = least_kept(scores, min_p=min_p, top_k=top_k, top_p=top_p)
    kept = set(np.flatnonzero(scores >= least).tolist())
    expected = kept_by_sorting(scores, min_p, top_k, top_p)
    # Rounding may turn round which side of the nucleus's edge one token is on.
    assert len(kept ^ expected) <= (top_p < 1.0)
    assert int(scores.argmax()) in kept


def test_nothing_is_restricted_by_neutral_values() -> None:
    """The neutral values cost nothing and keep everything."""
    scores = np.zeros(10, dtype=np.float32)
    assert least_kept(scores, min_p=0.0, top_k=0, top_p=1.0) == -math.inf


@pytest.mark.parametrize("fields", [{"min_p": 0.9}, {"top_k": 1}, {"top_p": 0.01}])
def test_tokens_that_were_ruled_out_stay_out(fields: dict[str, float]) -> None:
    """With one token allowed, that one is kept and the threshold is finite."""
    scores = np.full(300, -np.inf, dtype=np.float32)
    scores[17] = -4.0
    least = least_kept(scores, **{"min_p": 0.0, "top_k": 0, "top_p": 1.0} | fields)  # type: ignore[arg-type]
    assert np.flatnonzero(scores >= least).tolist() == [17]
    assert math.isfinite(least)
