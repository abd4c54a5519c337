"""Gumbel noise keyed by (seed, position, token), in NumPy (in torch: `pipesd_vllm/worker/noise.py`).

Counter-based, so that both sides draw the same values without talking. The method is SplitMix64 (Steele,
Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): output n of the generator with
state s is `mix(s + (n + 1) * GAMMA)`. Position i of a text has the keys `lead` and `tail`, outputs 2i and
2i + 1 of the generator seeded with output 0 of the text's seed. A token's 40 uniform bits are

- 8 leading bits: byte `token % 8` (least significant first) of output `token // 8` of generator `lead`;
- 32 bits: the upper half of output `token` of generator `tail`.

With u = (bits + 1/2) / 2^40 the noise is -log(-log1p(-u)), in float64. The bits are the same everywhere,
the noise to the last place of a float64. Small leading bits mean large noise, hence `leading_bytes`: one
byte a token, at an eighth of the cost, tells which tokens could be worth looking at (`MAX_NOISE`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_NOISE", "MAX_NOISE_UNLESS_LEADING", "gumbel", "leading_bytes", "uniform_bits"]

MAX_NOISE: Final = 28.42
"""No token's noise is larger."""
MAX_NOISE_UNLESS_LEADING: Final = 5.5452
"""No token's noise is larger unless its leading byte is 0."""

_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise of `tokens` (any shape) at `position`; `seed` counts modulo 2^64."""
    uniform = (uniform_bits(seed, position, tokens).astype(np.float64) + 0.5) * 2.0**-40
    noise: NDArray[np.float64] = -np.log(-np.log1p(-uniform))
    return noise


def uniform_bits(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The 40 uniform bits of `tokens`, leading ones first, as integers below 2^40."""
    lead, tail = _keys(seed, position)
    ids = tokens.astype(np.uint64)
    shift = (ids & np.uint64(7)) << np.uint64(3)
    leading = (_outputs(lead, ids >> np.uint64(3)) >> shift) & np.uint64(255)
    bits: NDArray[np.uint64] = (leading << np.uint64(32)) | (_outputs(tail, ids) >> np.uint64(32))
    return bits


def leading_bytes(seed: int, position: int, num_tokens: int) -> NDArray[np.uint8]:
    """The leading 8 bits of tokens `0 .. num_tokens - 1`."""
    lead, _ = _keys(seed, position)
    words = _outputs(lead, np.arange((num_tokens + 7) // 8, dtype=np.uint64))
    return words.astype("<u8", copy=False).view(np.uint8)[:num_tokens]


def _keys(seed: int, position: int) -> tuple[int, int]:
    text = _output(seed, 0)
    return _output(text, 2 * position), _output(text, 2 * position + 1)


def _output(state: int, n: int) -> int:
    z = (state + (n + 1) * _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _outputs(state: int, n: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Outputs `n` of the generator with `state`; unsigned integers of NumPy wrap around."""
    z = n * np.uint64(_GAMMA)
    z += np.uint64((state + _GAMMA) & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX_1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    return z
