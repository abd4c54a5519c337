"""The noise of the edge: known answers, and that it is noise."""

import itertools
import math

import numpy as np
import pytest

from edge_agent.sampling.noise import MAX_NOISE, MAX_NOISE_UNLESS_LEADING, gumbel, leading_bytes, uniform_bits
from tests.unit.significance import chi_square_p, kolmogorov_p

VOCABULARY = np.arange(49_152)
SEEDS = [0, 1, 42, -1, -(2**63), 2**63 - 1]


def uniforms(seed: int, position: int) -> np.ndarray:
    return (uniform_bits(seed, position, VOCABULARY) + 0.5) / 2**40


def test_known_answers() -> None:
    """The values are fixed for ever: a text must be the same on tomorrow's release."""
    tokens = np.array([0, 1, 7, 8, 49_151, 151_935])
    bits = [696069258777, 205655646907, 79637105003, 993163125678, 182168088713, 443563700930]
    assert uniform_bits(42, 1000, tokens).tolist() == bits
    noise = [-math.log(-math.log1p(-(each + 0.5) / 2**40)) for each in bits]
    assert gumbel(42, 1000, tokens) == pytest.approx(noise, abs=1e-14)


def test_the_seed_counts_modulo_two_to_the_sixty_four() -> None:
    """A negative seed and its two's complement are the same key; all 64 bits count."""
    assert (uniform_bits(-1, 3, VOCABULARY) == uniform_bits(2**64 - 1, 3, VOCABULARY)).all()
    assert (uniform_bits(0, 3, VOCABULARY) != uniform_bits(2**63, 3, VOCABULARY)).mean() > 0.99


@pytest.mark.parametrize("num_tokens", [1, 7, 8, 9, 49_152])
def test_leading_bytes_are_the_upper_eight_bits(num_tokens: int) -> None:
    """What is computed for a whole vocabulary agrees with what is computed for a token."""
    whole = leading_bytes(5, 17, num_tokens)
    assert whole.shape == (num_tokens,)
    assert (whole == uniform_bits(5, 17, np.arange(num_tokens)) >> np.uint64(32)).all()


def test_the_bounds_on_the_noise_hold() -> None:
    """The largest noise there can be, overall and with a leading byte above 0, is within the bounds."""
    smallest = -np.log(-np.log1p(-0.5 * 2.0**-40))
    unless_leading = -np.log(-np.log1p(-(2**32 + 0.5) * 2.0**-40))
    assert MAX_NOISE - 1e-2 < smallest < MAX_NOISE
    assert MAX_NOISE_UNLESS_LEADING - 1e-2 < unless_leading < MAX_NOISE_UNLESS_LEADING


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_gumbel_distributed(seed: int) -> None:
    """Over tokens, and over positions for one token, the distribution is standard Gumbel."""
    over_tokens = gumbel(seed, 11, VOCABULARY)
    over_positions = np.array([gumbel(seed, i, np.array([77]))[0] for i in range(4000)])
    for noise in (over_tokens, over_positions):
        assert kolmogorov_p(np.exp(-np.exp(-noise))) > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_every_bit_is_fair(seed: int) -> None:
    """Each of the 40 bits is 1 half of the time, alone and next to each neighbour."""
    bits = uniform_bits(seed, 23, VOCABULARY)
    planes = np.array([(bits >> np.uint64(k)) & np.uint64(1) for k in range(40)])
    half = [len(VOCABULARY) / 2] * 2
    assert (
        min(chi_square_p(np.bincount(plane.astype(np.int64), minlength=2), half) for plane in planes) > 1e-5
    )
    pairs = [np.bincount((2 * a + b).astype(np.int64), minlength=4) for a, b in itertools.pairwise(planes)]
    assert min(chi_square_p(pair, [len(VOCABULARY) / 4] * 4) for pair in pairs) > 1e-5


@pytest.mark.parametrize(
    ("other_seed", "other_position", "shift"),
    [(42, 101, 0), (42, 356, 0), (43, 100, 0), (42 + 2**32, 100, 0), (42, 100, 1), (42, 100, 8), (43, 99, 0)],
    ids=["next position", "far position", "next seed", "upper half", "next token", "next byte", "both"],
)
def test_noise_with_another_key_is_independent(other_seed: int, other_position: int, shift: int) -> None:
    """Neighbouring positions, seeds and tokens have nothing to do with each other (16 x 16 cells)."""
    here = uniforms(42, 100)
    there = np.roll(uniforms(other_seed, other_position), shift)
    cells = (here * 16).astype(int) * 16 + (there * 16).astype(int)
    assert chi_square_p(np.bincount(cells, minlength=256), [len(here) / 256] * 256) > 1e-3


def test_the_largest_noise_falls_on_any_token_alike() -> None:
    """Over 8,000 positions each of 64 tokens has the largest noise equally often."""
    tokens = np.arange(64) * 767
    winners = [int(gumbel(9, position, tokens).argmax()) for position in range(8000)]
    assert chi_square_p(np.bincount(winners, minlength=64), [8000 / 64] * 64) > 1e-3
