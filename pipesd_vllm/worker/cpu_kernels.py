"""Replaces a kernel of vLLM's CPU build that loses the sampling parameters of draft positions.

vLLM 0.32's CPU fallback of `expand_kernel` casts its tensors to int64 and writes the result into the
copy, so temperature and top-p of verified drafts are uninitialised memory and text sampled at a
temperature above 0 is garbage. On GPUs the Triton kernel does the work and nothing is replaced.
"""

from __future__ import annotations

from typing import Final

import torch

_EXPAND: Final = "vllm.v1.sample.rejection_sampler.expand_kernel"


def expand(
    output_ptr: torch.Tensor,
    input_ptr: torch.Tensor,
    cu_num_tokens_ptr: torch.Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int | None = None,  # noqa: N803 - the kernel's own name
) -> None:
    """Write `input_ptr[i]`, of any dtype, once for each token of request i into `output_ptr`.

    `input_ptr`: `[batch_size]`; `cu_num_tokens_ptr`: `[batch_size]` int, running totals;
    `output_ptr`: `[num_tokens]`. Values equal to `replace_from` become `replace_to`.
    """
    counts = torch.diff(cu_num_tokens_ptr, prepend=cu_num_tokens_ptr.new_zeros(1)).to(torch.int64)
    values = torch.where(input_ptr == replace_from, torch.full_like(input_ptr, replace_to), input_ptr)
    output_ptr.copy_(values.repeat_interleave(counts))


def register_cpu_kernels() -> None:
    """Register `expand` where vLLM uses its CPU fallbacks; call it after vLLM registered its own."""
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON
    from vllm.triton_utils.dispatcher import register_kernels

    if current_platform.is_cpu() and not HAS_TRITON:
        register_kernels({_EXPAND: expand})
