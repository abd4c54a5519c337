"""The noise: that it is vLLM's, and that it is noise."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipesd_vllm.wire.noise import QUIET_NOISE, gumbel, hash32, loud_tokens
from tests.unit.significance import chi_square_p, kolmogorov_p

KNOWN = json.loads((Path(__file__).parent / "noise_vectors.json").read_text())
VOCABULARY = np.arange(49_152)
SEEDS = [0, 42, -1, 2**32 + 42, -(2**63), 2**63 - 1]


@pytest.mark.parametrize("case", KNOWN["cases"], ids=lambda case: f"{case['seed']} at {case['position']}")
def test_known_answers_of_vllms_kernel(case: dict[str, list[float]]) -> None:
    """Hashes are exact; noise is to a unit in the last place, which a machine's logarithm may choose."""
    key = case["seed"], case["position"], np.array(KNOWN["tokens"])
    assert hash32(*key).tolist() == case["hash32"]
    for fp64, kind in ((False, np.float32), (True, np.float64)):
        noise, known = gumbel(*key, fp64=fp64), np.array(case[f"fp{64 if fp64 else 32}"], dtype=kind)
        assert noise.dtype == kind
        np.testing.assert_array_max_ulp(noise, known, maxulp=4)


def test_known_answers_cover_all_seeds_that_vllm_takes() -> None:
    """Zero, negative ones, beyond 32 bits, and the ends of int64."""
    seeds = {case["seed"] for case in KNOWN["cases"]}
    assert seeds >= {0, -1, 2**32 + 5, 2**63 - 1, -(2**63)}


@pytest.mark.parametrize("fp64", [False, True])
def test_positions_and_tokens_broadcast(fp64: bool) -> None:
    """A whole table at once is the same as one value after another, in any shape."""
    positions, tokens = np.array([3, 0, 4090]), np.array([5, 151_935])
    table = gumbel(7, positions[:, None], tokens, fp64=fp64)
    singles = [[float(gumbel(7, int(i), int(v), fp64=fp64)) for v in tokens] for i in positions]
    assert table.shape == (3, 2)
    assert table.tolist() == singles
    assert gumbel(7, 3, np.empty(0, dtype=np.int64), fp64=fp64).shape == (0,)


@pytest.mark.parametrize("fp64", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_loud_tokens_are_few_and_the_others_are_quiet(seed: int, fp64: bool) -> None:
    """What is told by the hash alone holds for the noise."""
    loud = np.flatnonzero(loud_tokens(seed, 17, VOCABULARY.size, fp64=fp64))
    assert abs(loud.size - VOCABULARY.size / 256) < 5 * math.sqrt(VOCABULARY.size / 256)
    noise = gumbel(seed, 17, VOCABULARY, fp64=fp64)
    assert set(np.flatnonzero(noise > QUIET_NOISE)) <= set(loud.tolist())
    assert (noise[loud] > 5.54).all()


@pytest.mark.parametrize("fp64", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_gumbel_distributed(seed: int, fp64: bool) -> None:
    """Over tokens, and over positions for one token, the distribution is standard Gumbel."""
    for positions, tokens in ((11, VOCABULARY), (np.arange(4000), 77)):
        noise = gumbel(seed, positions, tokens, fp64=fp64).astype(np.float64)
        assert kolmogorov_p(np.exp(-np.exp(-noise))) > 1e-3


@pytest.mark.parametrize(
    ("other_seed", "other_position", "shift"),
    [(42, 101, 0), (43, 100, 0), (42 + 2**32, 100, 0), (42, 100, 1), (43, 99, 0)],
    ids=["next position", "next seed", "upper half", "next token", "both"],
)
def test_noise_with_another_key_is_independent(other_seed: int, other_position: int, shift: int) -> None:
    """Neighbouring positions, seeds and tokens have nothing to do with each other (16 x 16 cells)."""
    here = hash32(42, 100, VOCABULARY) >> np.uint32(28)
    there = np.roll(hash32(other_seed, other_position, VOCABULARY) >> np.uint32(28), shift)
    cells = np.bincount((here * 16 + there).astype(np.int64), minlength=256)
    assert chi_square_p(cells, [VOCABULARY.size / 256] * 256) > 1e-3


@pytest.mark.parametrize("fp64", [False, True])
def test_the_largest_noise_falls_on_any_token_alike(fp64: bool) -> None:
    """Over 8,000 positions each of 64 tokens has the largest noise equally often."""
    winners = gumbel(9, np.arange(8000)[:, None], np.arange(64) * 767, fp64=fp64).argmax(axis=1)
    assert chi_square_p(np.bincount(winners, minlength=64), [8000 / 64] * 64) > 1e-3
