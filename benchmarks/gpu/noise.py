"""vLLM's Gumbel noise as a device computes it, against ours in NumPy.

Hash and uniform numbers are exact on any machine; the logarithms are the device's own. An edge's pick is the
target's unless the winner's lead is smaller than that difference.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesd_vllm.wire.noise import gumbel

__all__ = ["Agreement", "agreement", "noise_agreement", "ulps"]

_BLOCK: Final = 1024
_SPREAD: Final = 4.0
"""Standard deviation of the scores that the noise is added to."""

Floats = NDArray[Any]


class Agreement(NamedTuple):
    """Of two computations of the same noise."""

    max_ulp: int
    share_equal: float
    flips: int
    """Rows whose winner is another one."""
    num_rows: int


def ulps(ones: Floats, others: Floats) -> NDArray[np.int64]:
    """How many representable numbers lie between each two finite ones, float32 or float64."""
    kind = np.int32 if ones.dtype == np.float32 else np.int64
    least = np.int64(np.iinfo(kind).min)

    def ordered(values: Floats) -> NDArray[np.int64]:
        bits = values.view(kind).astype(np.int64)
        return np.where(bits < 0, least - bits, bits)

    apart: NDArray[np.int64] = np.abs(ordered(ones) - ordered(others))
    return apart


def agreement(theirs: Floats, ours: Floats) -> Agreement:
    """Of noise `[rows, tokens]`; the winners are those of random scores plus noise."""
    scores = np.random.default_rng(0).normal(0.0, _SPREAD, theirs.shape).astype(theirs.dtype)
    winners = [(scores + noise).argmax(axis=1) for noise in (theirs, ours)]
    apart = ulps(theirs, ours)
    flips = int((winners[0] != winners[1]).sum())
    return Agreement(int(apart.max()), float((apart == 0).mean()), flips, len(theirs))


def noise_agreement(
    seed: int, num_rows: int, num_tokens: int, *, fp64: bool = False, device: str = "cuda"
) -> Agreement:
    """Of vLLM's noise at positions 0, 1, ..., by its own Triton functions on `device`, and ours in NumPy.

    `device` is "cuda", or "cpu" where Triton interprets (`pipesd_vllm.launch.boot`).
    """
    import torch

    from benchmarks.gpu.noise_kernel import noise_kernel

    kind = torch.float64 if fp64 else torch.float32
    output = torch.empty((num_rows, num_tokens), dtype=kind, device=device)
    seeds = torch.tensor([seed], dtype=torch.int64, device=device)
    noise_kernel[(num_rows, -(-num_tokens // _BLOCK))](output, seeds, num_tokens, BLOCK=_BLOCK, FP64=fp64)
    ours = gumbel(seed, np.arange(num_rows)[:, None], np.arange(num_tokens)[None], fp64=fp64)
    return agreement(output.cpu().numpy(), ours)
