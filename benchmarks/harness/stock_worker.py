"""vLLM's CPU worker with the kernels of `pipesd serve` and nothing else of it."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from pipesd_vllm.worker.cpu_kernels import register_cpu_kernels

__all__ = ["StockCpuWorker"]


class StockCpuWorker(CPUWorker):
    """Beside the plugin's, both servers take the same kernels: interpreted ones take a second a step."""

    def init_device(self) -> None:
        """Register the kernels first: they are looked up when vLLM's model runner is made."""
        register_cpu_kernels()
        super().init_device()
