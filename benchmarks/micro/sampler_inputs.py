"""What vLLM's model runner hands to its samplers, made up: no engine, no model. Needs vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

__all__ = ["prepare_cpu_kernels", "sampling_metadata", "verify_step"]


def prepare_cpu_kernels() -> None:
    """As vLLM's CPU worker does at its start; on GPUs there is nothing to do."""
    from vllm.platforms import current_platform

    from pipesd_vllm.worker.cpu_kernels import register_cpu_kernels

    current_platform.import_kernels()
    current_platform.register_triton_kernel_overrides()
    register_cpu_kernels()


def sampling_metadata(
    num_requests: int, temperature: float = 0.0, device: torch.device | str = "cpu", **fields: Any
) -> SamplingMetadata:
    """Requests without anything but their temperature; `fields` replace what is said of them."""
    greedy = temperature == 0
    zeros = torch.zeros(num_requests, device=device)
    made = SamplingMetadata(
        temperature=None if greedy else zeros + temperature,
        all_greedy=greedy,
        all_random=not greedy,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=zeros,
        presence_penalties=zeros,
        repetition_penalties=zeros + 1,
        output_token_ids=[[] for _ in range(num_requests)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
        spec_token_ids=[[] for _ in range(num_requests)],
    )
    return replace(made, **fields)


def verify_step(drafts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> SpecDecodeMetadata:
    """Where the model runner puts the rows of each request: its drafts' positions, then the one after."""
    made = SpecDecodeMetadata.make_dummy([list(each) for each in drafts], torch.device(device))
    ends = made.cu_num_sampled_tokens.tolist()
    starts = [end - len(each) - 1 for end, each in zip(ends, drafts, strict=True)]
    targets = [start + j for start, each in zip(starts, drafts, strict=True) for j in range(len(each))]
    made.target_logits_indices = torch.tensor(targets, dtype=torch.int32, device=device)
    made.bonus_logits_indices = torch.tensor([end - 1 for end in ends], dtype=torch.int32, device=device)
    return made
