"""vLLM's own worker on the CPU build, with kernels that make it quick enough: what ours is compared with."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from pipesd_vllm.worker.cpu_kernels import register_cpu_kernels


class StockCpuWorker(CPUWorker):
    """As vLLM has it, samplers and all."""

    def init_device(self) -> None:
        register_cpu_kernels()
        super().init_device()
