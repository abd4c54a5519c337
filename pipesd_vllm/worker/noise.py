"""Gumbel noise keyed by (seed, position, token), in torch (method: `edge_agent/sampling/noise.py`).

Whole batches without a Python loop, on any device with 64-bit integers. torch has no unsigned 64-bit
arithmetic, so words are int64, which wrap around alike, and right shifts are masked.
"""

from __future__ import annotations

import functools
from typing import Final

import torch

__all__ = [
    "MAX_NOISE",
    "MAX_NOISE_UNLESS_LEADING",
    "SPLITMIX_64",
    "gumbel",
    "leading_bytes",
    "row_keys",
    "signed",
    "uniform_bits",
    "upper_bounds",
]

MAX_NOISE: Final = 28.42
"""No token's noise is larger."""
MAX_NOISE_UNLESS_LEADING: Final = 5.5452
"""No token's noise is larger unless its leading byte is 0: -log(-log1p(-1/256)) is 5.5432."""


def signed(word: int) -> int:
    """The int64 with the 64 bits of `word`, which counts modulo 2^64."""
    return (word + 2**63) % 2**64 - 2**63


_SERIAL_ELEMENTS: Final = 32_767
SPLITMIX_64: Final = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Its gamma and the two factors of its output function, unsigned."""
_GAMMA, _MIX_1, _MIX_2 = map(signed, SPLITMIX_64)


def row_keys(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The generators of n rows: `[n, 2]` int64 from `seeds` and `positions`, both `[n]` int64."""
    text = _mix(seeds + _GAMMA)
    lead = _mix(text + (2 * positions + 1) * _GAMMA)
    tail = _mix(text + (2 * positions + 2) * _GAMMA)
    return torch.stack((lead, tail), dim=1)


def leading_bytes(keys: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """The leading 8 bits of tokens `0 .. num_tokens - 1`: `[n, num_tokens]` uint8 for `keys` `[n, 2]`."""
    num_words = (num_tokens + 7) // 8
    steps = torch.arange(1, num_words + 1, dtype=torch.int64, device=keys.device).mul_(_GAMMA)
    words = torch.empty((len(keys), num_words), dtype=torch.int64, device=keys.device)
    # On CPUs a few rows at a time: they stay in cache, and below torch's threshold for threads.
    rows = max(1, _SERIAL_ELEMENTS // num_words) if keys.is_cpu else len(keys)
    for first in range(0, len(keys), max(rows, 1)):
        _mix(torch.add(keys[first : first + rows, :1], steps, out=words[first : first + rows]))
    # Viewed as bytes, a word's least significant comes first, as on all hosts that vLLM runs on but s390x.
    return words.view(torch.uint8)[:, :num_tokens]


@functools.cache
def upper_bounds(device: torch.device) -> torch.Tensor:
    """`[256]` float32: no noise with leading byte i is larger than entry i by more than rounding."""
    lowest = torch.arange(256, dtype=torch.float64).div_(256)
    bounds = lowest.neg().log1p_().neg_().log_().neg_()
    bounds[0] = MAX_NOISE
    return bounds.float().to(device)


def gumbel(keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float64: of `tokens` (int64, any shape) under `keys` (that shape, and 2)."""
    uniform = uniform_bits(keys, tokens).to(torch.float64).add_(0.5).mul_(2.0**-40)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def uniform_bits(keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The 40 uniform bits, int64, leading ones first; shapes as for `gumbel`."""
    lead, tail = keys.unbind(-1)
    words = _mix(((tokens >> 3) + 1).mul_(_GAMMA).add_(lead))
    leading = (words >> ((tokens & 7) << 3)).bitwise_and_(255)
    rest = _mix((tokens + 1).mul_(_GAMMA).add_(tail))
    return (leading << 32).bitwise_or_((rest >> 32).bitwise_and_(2**32 - 1))


def _mix(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function, in place."""
    shifted = z >> 30
    z.bitwise_xor_(shifted.bitwise_and_(2**34 - 1)).mul_(_MIX_1)
    torch.bitwise_right_shift(z, 27, out=shifted)
    z.bitwise_xor_(shifted.bitwise_and_(2**37 - 1)).mul_(_MIX_2)
    torch.bitwise_right_shift(z, 31, out=shifted)
    return z.bitwise_xor_(shifted.bitwise_and_(2**33 - 1))
