"""A Triton kernel that hands out the noise of vLLM's own functions; imports vLLM and Triton."""

from __future__ import annotations

from typing import Any

from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import _log1p_neg_stable, murmur3_uniform32, murmur3_uniform64

__all__ = ["noise_kernel"]


@triton.jit  # type: ignore[untyped-decorator]
def noise_kernel(output: Any, seeds: Any, num_tokens: Any, BLOCK: tl.constexpr, FP64: tl.constexpr) -> None:
    """The noise of a block of tokens, at the position that is the row's number, as `gumbel_noised_argmax`."""
    row = tl.program_id(0)
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(seeds)
    if FP64:
        noise = -tl.log(-tl.log(murmur3_uniform64(seed, row, tokens)))
    else:
        noise = -tl.log(-_log1p_neg_stable(murmur3_uniform32(seed, row, tokens)))
    tl.store(output + row * num_tokens + tokens, noise, mask=tokens < num_tokens)
