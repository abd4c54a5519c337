"""Picking under request parameters."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.api import Sampling
from edge_agent.errors import ModelError
from edge_agent.sampling import DraftToken, GreedyPicker, SampledPicker
from pipesd_vllm.wire.noise import gumbel

LOGITS = np.random.default_rng(4).normal(0.0, 2.0, 400).astype(np.float32)
PROMPT = [1, 2, 3]


def settings(**fields: object) -> Sampling:
    return Sampling(64, **{"temperature": 1.0, "seed": 11} | fields)  # type: ignore[arg-type]


def test_at_temperature_0_the_pick_is_the_greedy_one_of_the_adjusted_logits() -> None:
    """Without temperature a bias moves the argmax, and the probability is the softmax of what was moved."""
    greedy = GreedyPicker().pick(LOGITS, PROMPT)
    plain = SampledPicker(settings(temperature=0.0, seed=None), 3).pick(LOGITS, PROMPT)
    assert plain == greedy
    biased = settings(temperature=0.0, logit_bias={greedy.token_id: -100.0})
    moved = SampledPicker(biased, 3).pick(LOGITS, PROMPT)
    assert moved.token_id == int(np.argsort(LOGITS)[-2])
    assert moved.probability > greedy.probability / 2


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"presence_penalty": 1.0}],
)
def test_the_pick_depends_on_seed_and_position_alone(fields: dict[str, float]) -> None:
    """A picker that has been rewound picks what a new one picks; other seeds and positions differ."""
    tokens, picker = list(PROMPT), SampledPicker(settings(**fields), 3)
    for _ in range(12):
        tokens.append(picker.pick(LOGITS, tokens).token_id)
    assert len(set(tokens[3:])) > 1
    picker.rewind(7)
    again = tokens[:7]
    for _ in range(8):
        again.append(picker.pick(LOGITS, again).token_id)
    assert again == tokens
    other, changed = SampledPicker(settings(**fields | {"seed": 12}), 3), list(PROMPT)
    for _ in range(12):
        changed.append(other.pick(LOGITS, changed).token_id)
    assert changed != tokens


def test_the_logits_are_left_as_they_were() -> None:
    """llama.cpp's memory is only read."""
    before = LOGITS.copy()
    SampledPicker(settings(top_k=2, repetition_penalty=1.5), 3).pick(LOGITS, PROMPT)
    assert (before == LOGITS).all()


def test_the_probability_is_high_where_no_other_token_comes_near() -> None:
    """A token far ahead is sure; one among equals is not."""
    sharp = np.zeros(400, dtype=np.float32)
    sharp[5] = 50.0
    assert SampledPicker(settings(), 3).pick(sharp, PROMPT).probability > 0.99
    assert SampledPicker(settings(), 3).pick(np.zeros(400, dtype=np.float32), PROMPT).probability < 0.9


def test_logits_that_are_not_numbers_are_a_typed_error() -> None:
    """A damaged model file is named as such, sampled or not."""
    broken = np.full(400, np.nan, dtype=np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match="NaN"):
            SampledPicker(settings(temperature=temperature), 3).pick(broken, PROMPT)


@pytest.mark.parametrize("penalty", [1e-38, 1e-45, 1e-60, 1e-300])
@pytest.mark.parametrize("fields", [{}, {"top_p": 0.9}, {"min_p": 0.1, "top_k": 5}])
@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0])
def test_the_smallest_repetition_penalty_is_no_failure(
    temperature: float, fields: dict[str, float], penalty: float
) -> None:
    """A token that it lifts out of sight is drafted, with a probability that is a number."""
    logits = LOGITS.copy()
    logits[[1, 2, 3]] = (-4.0, 9.0, -np.inf)
    picker = SampledPicker(settings(temperature=temperature, repetition_penalty=penalty, **fields), 3)
    assert picker.pick(logits, PROMPT) == DraftToken(2, 1.0)


class Nothing:
    """A mask that rules everything out."""

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        scores.fill(-np.inf)

    def rewind(self, length: int) -> None: ...


def test_with_everything_ruled_out_something_is_drafted_all_the_same() -> None:
    """Contradictory parameters are the server's to refuse; drafting goes on."""
    picked = SampledPicker(settings(), 3, mask=Nothing()).pick(LOGITS, PROMPT)
    assert picked.token_id == int(LOGITS.argmax())


def test_picks_follow_the_distribution() -> None:
    """20,000 picks at different positions against the softmax with top-k: chi-square within 5 deviations."""
    logits = LOGITS[:16]
    picker = SampledPicker(settings(top_k=8, temperature=1.5), 0)
    num = 20_000
    counts = np.zeros(16)
    for position in range(num):
        counts[picker.pick(logits, range(position)).token_id] += 1
    scores = logits.astype(np.float64) / 1.5
    weights = np.where(scores >= np.sort(scores)[-8], np.exp(scores), 0.0)
    expected = num * weights / weights.sum()
    kept = expected > 0
    assert not counts[~kept].any()
    chi2 = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert chi2 < 7 + 5 * 14**0.5


@pytest.mark.parametrize("fp64", [False, True])
def test_the_pick_is_that_of_vllm(fp64: bool) -> None:
    """The noise is that of the last token's position, in the form that the target draws with."""
    picker = SampledPicker(settings(temperature=0.7), 3, fp64_noise=fp64)
    tokens = list(PROMPT)
    for _ in range(20):
        noise = gumbel(11, len(tokens) - 1, np.arange(400), fp64=fp64)
        picked = picker.pick(LOGITS, tokens).token_id
        assert picked == int((LOGITS / np.float32(0.7) + noise).argmax())
        tokens.append(picked)
