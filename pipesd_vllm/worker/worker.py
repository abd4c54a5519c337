"""vLLM's GPU worker with the coupled samplers: `--worker-cls pipesd_vllm.worker.worker.PipeSDWorker`."""

from __future__ import annotations

from vllm.v1.worker.gpu_worker import Worker

from pipesd_vllm.worker.worker_sampling import CouplesSampling

__all__ = ["PipeSDWorker"]


class PipeSDWorker(CouplesSampling, Worker):
    """`cpu_worker.py` has the one for vLLM's CPU build."""
