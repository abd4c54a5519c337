"""vLLM's CPU worker with the coupled samplers: `--worker-cls pipesd_vllm.worker.cpu_worker.PipeSDCpuWorker`."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from pipesd_vllm.worker.worker_sampling import CouplesSampling

__all__ = ["PipeSDCpuWorker"]


class PipeSDCpuWorker(CouplesSampling, CPUWorker):
    """`worker.py` has the one for GPUs."""
