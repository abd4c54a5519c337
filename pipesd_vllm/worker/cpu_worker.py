"""vLLM's CPU worker with the edges' drafts; `launch/serve.py` names it as `--worker-cls`."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from pipesd_vllm.worker.cpu_kernels import register_cpu_kernels
from pipesd_vllm.worker.draft_worker import VerifiesDrafts

__all__ = ["PipeSDCpuWorker"]


class PipeSDCpuWorker(VerifiesDrafts, CPUWorker):
    """`worker.py` has the one for GPUs."""

    def init_device(self) -> None:
        """Register our kernels first: they are looked up when vLLM's model runner is made."""
        register_cpu_kernels()
        super().init_device()
