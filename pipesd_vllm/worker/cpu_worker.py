"""vLLM's CPU worker with the edges' drafts; `launch/serve.py` names it as `--worker-cls`."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from pipesd_vllm import compat
from pipesd_vllm.worker.cpu_kernels import register_cpu_kernels
from pipesd_vllm.worker.draft_worker import VerifiesDrafts

__all__ = ["PipeSDCpuWorker"]


class PipeSDCpuWorker(VerifiesDrafts, CPUWorker):
    """`worker.py` has the one for GPUs."""

    def init_device(self) -> None:
        """Register our kernels first: they are looked up when vLLM's model runner is made.

        Raises `UnsupportedVllmError` where vLLM's are others, and what `VerifiesDrafts` raises.
        """
        compat.check_version(compat.installed_version(), compat.CPU_SUPPORTED)
        register_cpu_kernels()
        super().init_device()
