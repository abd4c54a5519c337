"""The noise of the server: the same as the edge's, in whole batches."""

import numpy as np
import pytest
import torch

from edge_agent.sampling import noise as edge
from pipesd_vllm.worker import noise
from tests.devices import on_each_device

CASES = [(0, 0), (7, 123), (-5, 2**32 - 1), (2**63 - 1, 5), (-(2**63), 9)]


@on_each_device
def test_a_batch_has_the_values_of_the_edge(device: str) -> None:
    """Bits agree exactly, noise to the last place of a float64, for rows of different seeds and positions."""
    vocab_size = 5001
    seeds, positions = (torch.tensor(column, device=device) for column in zip(*CASES, strict=True))
    keys = noise.row_keys(seeds, positions)
    tokens = torch.arange(vocab_size, device=device).expand(len(CASES), -1)
    each = keys[:, None].expand(-1, vocab_size, -1)
    bits = noise.uniform_bits(each, tokens).cpu().numpy()
    values = noise.gumbel(each, tokens).cpu().numpy()
    leading = noise.leading_bytes(keys, vocab_size).cpu().numpy()
    for row, (seed, position) in enumerate(CASES):
        ids = np.arange(vocab_size)
        assert (bits[row] == edge.uniform_bits(seed, position, ids).astype(np.int64)).all()
        assert np.abs(values[row] - edge.gumbel(seed, position, ids)).max() < 1e-14
        assert (leading[row] == edge.leading_bytes(seed, position, vocab_size)).all()


def test_known_answers() -> None:
    """SplitMix64's published outputs for the seed 1234567 come out of the shared mixing function."""
    state = torch.full((3,), 1234567, dtype=torch.int64)
    tokens = torch.tensor([0, 1, 2])
    upper = noise.uniform_bits(torch.stack((state, state), 1), tokens) & (2**32 - 1)
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert upper.tolist() == [output >> 32 for output in outputs]


def test_the_bounds_are_the_edges() -> None:
    """Both sides skip tokens by the same bounds."""
    assert noise.MAX_NOISE == edge.MAX_NOISE
    assert noise.MAX_NOISE_UNLESS_LEADING == edge.MAX_NOISE_UNLESS_LEADING


@pytest.mark.parametrize("word", [0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)])
def test_signed_keeps_the_low_64_bits(word: int) -> None:
    """The int64 has the same bits modulo 2^64."""
    assert -(2**63) <= noise.signed(word) < 2**63
    assert (noise.signed(word) - word) % 2**64 == 0
