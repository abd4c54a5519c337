"""vLLM's CPU worker with the coupled samplers; `launch/serve.py` names it as `--worker-cls`."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from pipesd_vllm.worker.worker_sampling import CouplesSampling

__all__ = ["PipeSDCpuWorker"]


class PipeSDCpuWorker(CouplesSampling, CPUWorker):
    """`worker.py` has the one for GPUs."""
