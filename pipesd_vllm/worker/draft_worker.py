"""What our workers add to vLLM's: the edges' drafts are put into the model runner and verified there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipesd_vllm.fill_in import is_silent
from pipesd_vllm.target_kind import check_target_kind

if TYPE_CHECKING:
    from pipesd_vllm.worker.lora import DraftedLoraState

__all__ = ["VerifiesDrafts", "WrongWorkerError"]


class WrongWorkerError(RuntimeError):
    """vLLM was started with a worker or a model runner that cannot verify the edges' drafts."""


class VerifiesDrafts:
    """Mixin for a vLLM worker class; stands before it among the bases."""

    model_runner: Any
    vllm_config: Any
    _adapters: DraftedLoraState | None = None

    def verifies_drafts(self) -> bool:
        """Always: asked of a worker of another class, vLLM raises (`api/endpoint.py`)."""
        return True

    def init_device(self) -> None:
        """Raises `WrongWorkerError` or `UnsupportedTargetError` before weights load."""
        config = self.vllm_config
        if not config.use_v2_model_runner or config.speculative_config is None:
            raise WrongWorkerError(
                "pipesd needs vLLM's Model Runner V2 and a speculative config: start with 'pipesd serve'."
            )
        check_target_kind(config.model_config, config.parallel_config)
        super().init_device()  # type: ignore[misc]  # the worker's

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, and put our rejection sampler and state of LoRA adapters where vLLM's are."""
        from pipesd_vllm.worker.lora import DraftedLoraState
        from pipesd_vllm.worker.rejection_sampler import CoupledRejectionSampler, NullSpeculator

        runner = self.model_runner
        if runner.lora_config is not None:
            runner.lora_state = self._adapters = DraftedLoraState(runner.max_num_reqs)
        if runner.speculator is not None and is_silent(runner.speculative_config):
            runner.speculator = NullSpeculator(
                runner.max_num_reqs, runner.num_speculative_steps, runner.device
            )
        super().load_model(*args, **kwargs)  # type: ignore[misc]  # the worker's
        stock = runner.rejection_sampler
        if stock is not None:  # only the last stage of a pipeline samples
            runner.rejection_sampler = CoupledRejectionSampler(
                runner.sampler, runner.speculative_config, runner.device, watermark_key=stock.watermark_key
            )

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run a step after the edges' drafts are where the model runner looks for its speculator's."""
        drafts = scheduler_output.scheduled_spec_decode_tokens
        if self._adapters is not None:
            self._adapters.drafts = drafts
        if drafts:
            self._put_drafts(drafts)
        return super().execute_model(scheduler_output)  # type: ignore[misc]  # the worker's

    def _put_drafts(self, drafts: dict[str, list[int]]) -> None:
        """Write drafts into `req_states.draft_tokens`, one copy to the device for all.

        Where the scheduler has -1, the drafts of vLLM's own speculator stay.
        """
        states = self.model_runner.req_states
        rows: list[int] = []
        columns: list[int] = []
        tokens: list[int] = []
        for request_id, ids in drafts.items():
            known = next((place for place, token in enumerate(ids) if token < 0), len(ids))
            rows += [states.req_id_to_index[request_id]] * known if known else []
            columns += range(known)
            tokens += ids[:known]
        if not tokens:
            return
        target = states.draft_tokens
        place = torch.tensor([rows, columns, tokens], dtype=torch.int64)
        if target.device.type != "cpu":
            place = place.pin_memory().to(target.device, non_blocking=True)
        target[place[0], place[1]] = place[2]
