"""What our workers add to vLLM's: the coupled samplers, put in place once the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

__all__ = ["CouplesSampling", "WrongWorkerError", "check_worker", "couple_samplers"]


class WrongWorkerError(RuntimeError):
    """vLLM was started with a worker that cannot sample for sessions."""


class CouplesSampling:
    """Mixin for a vLLM worker class; stands before it among the bases."""

    model_runner: Any

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)  # type: ignore[misc]  # the worker's
        couple_samplers(self.model_runner)


def couple_samplers(runner: GPUModelRunner) -> None:
    """Replace the samplers of vLLM's model runner (V1); without speculation there is only one."""
    from pipesd_vllm.worker.coupled_batch import RunnerBatch
    from pipesd_vllm.worker.coupled_sampler import CoupledRejectionSampler, CoupledSampler
    from pipesd_vllm.worker.gumbel_max import warm_up

    batch = RunnerBatch(runner)
    stock = runner.sampler
    runner.sampler = CoupledSampler(stock, batch)
    if hasattr(runner, "rejection_sampler"):
        runner.rejection_sampler = CoupledRejectionSampler(
            runner.rejection_sampler, batch, runner.speculative_config, runner.device
        )
    warm_up(runner.device, runner.model_config.get_vocab_size())


def check_worker(qualified_name: str) -> None:
    """Refuse a `--worker-cls` under which every session's text would be greedy. Raises `WrongWorkerError`."""
    from vllm.utils.import_utils import resolve_obj_by_qualname

    worker = resolve_obj_by_qualname(qualified_name)
    if not issubclass(worker, CouplesSampling):
        raise WrongWorkerError(
            f"pipesd needs a worker that samples for its sessions, but --worker-cls is {qualified_name}; "
            "leave the flag out, or derive the class from pipesd_vllm.worker.worker_sampling.CouplesSampling."
        )
