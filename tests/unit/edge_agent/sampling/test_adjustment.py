"""Penalties, biases and bans, against the definitions written out token by token."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge_agent.api import Sampling
from edge_agent.sampling.adjustment import LogitAdjuster, adjusts_logits

NUM_TOKENS = 12
END = 11
TOKENS = st.lists(st.integers(0, NUM_TOKENS - 1), min_size=1, max_size=20)


def adjusted(settings: Sampling, tokens: list[int], prompt_length: int, logits: list[float]) -> list[float]:
    """vLLM's order: allowed tokens, least length, biases, repetition, frequency, presence."""
    seen, counts = set(tokens), Counter(tokens[prompt_length:])
    result = []
    for token, logit in enumerate(logits):
        value = logit
        if settings.allowed_token_ids and token not in settings.allowed_token_ids:
            value = -math.inf
        if len(tokens) - prompt_length < settings.min_tokens and token in (END, *settings.stop_token_ids):
            value = -math.inf
        value += settings.logit_bias.get(token, 0.0)
        if token in seen:
            penalty = settings.repetition_penalty
            value = value / penalty if value > 0 else value * penalty
        value -= settings.frequency_penalty * counts[token]
        value -= settings.presence_penalty * (counts[token] > 0)
        result.append(value)
    return result


SETTINGS = st.builds(
    Sampling,
    max_tokens=st.just(8),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    min_tokens=st.integers(0, 4),
    stop_token_ids=st.sampled_from([[], [3], [99]]),
    logit_bias=st.sampled_from([{}, {2: 1.5, 5: -100.0}, {4000: 3.0}]),
    allowed_token_ids=st.sampled_from([[], [1, 2, 5, 11], [7, 4000]]),
)


@hypothesis_settings(deadline=None)
@given(SETTINGS, TOKENS, st.integers(1, 20), st.integers(0, 2**32))
def test_logits_become_what_the_definitions_say(
    settings: Sampling, tokens: list[int], prompt_length: int, rng: int
) -> None:
    """Every combination of parameters gives, token by token, what its definition gives."""
    prompt_length = min(prompt_length, len(tokens))
    logits = np.random.default_rng(rng).normal(0.0, 2.0, NUM_TOKENS).astype(np.float32)
    expected = adjusted(settings, tokens, prompt_length, logits.tolist())
    LogitAdjuster(settings, prompt_length, (END,), NUM_TOKENS).apply(logits, tokens)
    assert logits.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"repetition_penalty": 1.1},
        {"min_tokens": 1},
        {"logit_bias": {1: 1.0}},
        {"allowed_token_ids": [1]},
    ],
)
def test_each_parameter_is_noticed(fields: dict[str, object]) -> None:
    """No parameter that changes logits is taken for a neutral one."""
    assert adjusts_logits(Sampling(8, **fields))  # type: ignore[arg-type]
    assert not adjusts_logits(Sampling(8, temperature=1.0, top_p=0.5, seed=3))
