"""Verification in Model Runner V2: rows are sampled as by plain decoding, drafts stand while they are equal.

vLLM's noise is a function of seed, position and token, so the token that a row gets does not depend on drafts
or batch (Daliri, Musco, Suresh: "Coupling without Communication and Drafter-Invariant Speculative Decoding",
2024). That is lossless for drafts of any origin, and a text with drafts is the one without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler
from vllm.v1.worker.gpu.spec_decode.speculator import BaseSpeculator

__all__ = ["CoupledRejectionSampler", "NullSpeculator"]


class CoupledRejectionSampler(RejectionSampler):
    """Takes the place of the model runner's `rejection_sampler`; nothing waits for the device."""

    def _verify(
        self,
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        draft_sampled: torch.Tensor,
        pos: torch.Tensor,
        cu_num_logits: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray[Any, Any],
        expanded_idx_mapping: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        seq_lens_upper_bound_np: np.ndarray[Any, Any],
        verify_draft_sampled: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The processed logits `[rows, vocab]`, tokens `[requests, drafts + 1]` and how many of them count.

        `draft_sampled` `[rows]` are the rows' input tokens: row i + 1 of a request has the draft that row i
        chose or did not. `verify_draft_sampled` is -1 where the draft must not stand.
        """
        tokens, processed = self.sampler.sample(
            logits,
            expanded_idx_mapping,
            idx_mapping,
            idx_mapping_np,
            pos,
            draft_sampled,
            expanded_local_pos,
            seq_lens_upper_bound_np,
        )
        row = expanded_local_pos.long()
        request = (row == 0).cumsum(0) - 1
        shape = (idx_mapping.shape[0], self.num_speculative_steps + 1)
        sampled = tokens.new_zeros(shape)
        sampled[request, row] = tokens
        # A draft stands beside the row before its own; a first row has none, and writes to the last column.
        drafts = tokens.new_full(shape, -1)
        drafts[request, (row - 1) % shape[1]] = torch.where(
            row > 0, verify_draft_sampled.to(tokens.dtype), -1
        )
        kept = (sampled == drafts)[:, :-1].long().cumprod(1).sum(1)
        return processed, sampled, (kept + 1).to(torch.int32)


class NullSpeculator(BaseSpeculator):
    """Proposes nothing: drafts come from the edges, through the scheduler."""

    supports_mm_inputs = False
    draft_logits = None

    def __init__(self, max_num_reqs: int, num_speculative_steps: int, device: torch.device) -> None:
        self.num_speculative_steps = num_speculative_steps
        self._nothing = torch.full(
            (max_num_reqs, num_speculative_steps), -1, dtype=torch.int64, device=device
        )

    def init_cudagraph_manager(self, cudagraph_mode: Any) -> None:
        """There is no model to capture."""

    def capture(self) -> None:
        """There is no model to capture."""

    def propose(self, input_batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`[requests, drafts]` int64, all -1."""
        return self._nothing[: input_batch.num_reqs]
