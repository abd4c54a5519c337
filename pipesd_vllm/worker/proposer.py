"""A proposer for vLLM that proposes nothing: the drafts come from the edges, through the scheduler."""

from __future__ import annotations

from typing import Any

from pipesd_vllm.target_kind import check_target_kind
from pipesd_vllm.worker.cpu_kernels import register_cpu_kernels
from pipesd_vllm.worker.worker_sampling import check_worker


class RemoteDraftProposer:
    """The `custom_class` of `--speculative-config`.

    Naming it switches on vLLM's own verification path (KV look-ahead, rejection
    sampler, rollback, metrics); `propose` itself never proposes anything.
    """

    def __init__(self, vllm_config: Any) -> None:
        check_worker(vllm_config.parallel_config.worker_cls)
        # `pipesd serve` has checked this; whoever starts vLLM otherwise is told before the weights load.
        check_target_kind(vllm_config.model_config, vllm_config.parallel_config)
        # The proposer is what vLLM builds of ours in each worker, after its own kernels are registered.
        register_cpu_kernels()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """There is no draft model on the server."""

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        """One empty draft a row."""
        return [[] for _ in sampled_token_ids]


def proposes_nothing(speculative_config: Any) -> bool:
    """Whether vLLM's `SpeculativeConfig` (None: there is none) names the proposer above."""
    if speculative_config is None or speculative_config.method != "custom_class":
        return False
    from vllm.utils.import_utils import resolve_obj_by_qualname

    return issubclass(resolve_obj_by_qualname(speculative_config.model), RemoteDraftProposer)
