"""vLLM's Gumbel noise, keyed by (seed, position, token id), in NumPy. Pure; for both sides of the wire.

Model Runner V2 picks the argmax of `logits / temperature + g(seed, position, token)`, so whoever knows the
seed can draw the noise of its next pick (vLLM 0.32, `vllm/v1/worker/gpu/sample/gumbel.py`). `position` is
that of the pick's *input* token, prompt first: the token at index i of the whole sequence is picked with the
noise of position i - 1, and the first generated one with that of `len(prompt) - 1`.

Murmur3 hashes the seed's low and high word, the position's low word and the token id to 32 bits. In fp32,
u = (hash + 1/2) / 2^32 and the noise is -log(-log(1 - u)); in fp64 (vLLM's `--use-fp64-gumbel`) two hashes
give 53 bits and the noise is -log(-log(u)): other noise, not the same with more digits. Hash and u are exact
on any machine, the logarithms to the last place. The operations and their order are those of vLLM's kernel.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["QUIET_NOISE", "gumbel", "hash32", "loud_tokens"]

QUIET_NOISE: Final = 5.5452
"""No token's noise is larger unless it is one of `loud_tokens`: -log(-log(1 - 1/256)) is 5.5432."""

_HIGH_DOMAIN: Final = 0x9E3779B9
"""Keys the hash that is the upper word of an fp64 draw."""
_LOUD: Final = 2**24
_U32 = np.uint32
_F32 = np.float32
_WORD: Final = 2**32 - 1


def gumbel(seed: int, positions: ArrayLike, tokens: ArrayLike, *, fp64: bool = False) -> NDArray[Any]:
    """Standard Gumbel noise, float32 (float64 with `fp64`), of the shape that the two arrays broadcast to.

    `positions` are those of the picks' input tokens; `seed` is any int64.
    """
    return _gumbel64(seed, positions, tokens) if fp64 else _gumbel32(seed, positions, tokens)


def loud_tokens(seed: int, position: int, num_tokens: int, *, fp64: bool = False) -> NDArray[np.bool_]:
    """Which of the tokens `0 .. num_tokens - 1` may have noise above `QUIET_NOISE`, about one in 256.

    Told by a hash alone, without the logarithms, which cost more.
    """
    ids = np.arange(num_tokens, dtype=_U32)
    if fp64:
        return hash32(seed, position, ids, _HIGH_DOMAIN) >= _U32(2**32 - _LOUD)
    return hash32(seed, position, ids) < _U32(_LOUD)


def hash32(seed: int, positions: ArrayLike, tokens: ArrayLike, domain: int = 0) -> NDArray[np.uint32]:
    """The 32 bits of a draw, uint32, of the shape that `positions` and `tokens` broadcast to."""
    low = np.atleast_1d(np.asarray(positions, dtype=np.int64) & _WORD).astype(_U32)
    h = _mixed(_mixed(_of_seed(seed, domain), low), np.atleast_1d(tokens).astype(_U32))
    h ^= _U32(16)
    h ^= h >> _U32(16)
    h *= _U32(0x85EBCA6B)
    h ^= h >> _U32(13)
    h *= _U32(0xC2B2AE35)
    h ^= h >> _U32(16)
    return h.reshape(np.broadcast_shapes(np.shape(positions), np.shape(tokens)))


@functools.lru_cache(maxsize=64)
def _of_seed(seed: int, domain: int) -> NDArray[np.uint32]:
    """What all draws of a text begin with, `[1]`."""
    h = np.full(1, domain, dtype=_U32)
    for key in (seed & _WORD, (seed >> 32) & _WORD):
        h = _mixed(h, np.full(1, key, dtype=_U32))
    return h


def _mixed(h: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Murmur3's step; arrays of unsigned integers wrap around without a warning."""
    key = key * _U32(0xCC9E2D51)
    _rotate(key, 15)
    key *= _U32(0x1B873593)
    mixed = h ^ key
    _rotate(mixed, 13)
    mixed *= _U32(5)
    mixed += _U32(0xE6546B64)
    return mixed


def _rotate(words: NDArray[np.uint32], shift: int) -> None:
    """In place, as all that is done to a whole vocabulary here: memory is what takes the time."""
    low = words >> _U32(32 - shift)
    words <<= _U32(shift)
    words |= low


def _gumbel32(seed: int, positions: ArrayLike, tokens: ArrayLike) -> NDArray[np.float32]:
    bits = hash32(seed, positions, tokens)
    high, low = (bits >> _U32(16)).astype(_F32), (bits & _U32(0xFFFF)).astype(_F32)
    u = high * _F32(2.0**-16) + (low + _F32(0.5)) * _F32(2.0**-32)
    noise: NDArray[np.float32] = -np.log(-_log_of_complement(u))
    return noise


def _log_of_complement(u: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(1 - u): a series of degree 8 for small u, which make the large noise."""
    series = np.full_like(u, _F32(1 / 8))
    for n in range(7, 0, -1):
        series = _F32(1 / n) + u * series
    direct = np.log(np.maximum(_F32(1) - u, _F32(2.0**-24)))
    return np.where(u < _F32(0.25), -u * series, direct)


def _gumbel64(seed: int, positions: ArrayLike, tokens: ArrayLike) -> NDArray[np.float64]:
    low = hash32(seed, positions, tokens).astype(np.uint64)
    high = hash32(seed, positions, tokens, _HIGH_DOMAIN).astype(np.uint64)
    bits = ((high << np.uint64(32)) | low) >> np.uint64(11)
    u = (bits.astype(np.float64) + 0.5) * 2.0**-53
    u = np.where(u == 1.0, 1.0 - 2.0**-53, u)
    noise: NDArray[np.float64] = -np.log(-np.log(u))
    return noise
