"""LoRA adapters beside drafts: vLLM's Model Runner V2 has one row of logits a request in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from vllm.lora.request import LoRARequest
from vllm.v1.worker.gpu.lora_utils import LoraState

__all__ = ["DraftedLoraState"]


class DraftedLoraState(LoraState):
    """Takes the place of the model runner's `lora_state`: a request has a row more for each of its drafts."""

    drafts: Mapping[str, Sequence[int]] = {}
    """Those of the step that runs, by request."""

    def make_lora_inputs(
        self, req_ids: list[str], idx_mapping: np.ndarray, num_scheduled_tokens: np.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...], set[LoRARequest]]:
        of_requests, of_tokens, active = super().make_lora_inputs(req_ids, idx_mapping, num_scheduled_tokens)
        num_rows = [1 + len(self.drafts.get(name, ())) for name in req_ids]
        return tuple(np.repeat(of_requests, num_rows)), of_tokens, active
