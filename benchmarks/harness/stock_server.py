"""`python -m benchmarks.harness.stock_server MODEL [any vLLM flag]`: the server without the plugin.

vLLM by the launch of `pipesd serve`, with its flags and, on the CPU build, its kernels, but with vLLM's own
scheduler, worker and sampler and no speculative config: what plain traffic costs where pipesd is not.
"""

from __future__ import annotations

from pipesd_vllm.launch.boot import boot

if __name__ in ("__main__", "__mp_main__"):  # the program, and the processes that vLLM spawns
    boot()


import os
import sys
from collections.abc import Sequence
from typing import Final

from pipesd_vllm.launch import cpu_host
from pipesd_vllm.launch.serve import vllm_arguments

__all__ = ["stock_arguments"]

_CPU_WORKER: Final = "benchmarks.harness.stock_worker.StockCpuWorker"
_OURS: Final = ("--scheduler-cls", "--speculative-config")


def stock_arguments(arguments: Sequence[str]) -> list[str]:
    """vLLM's command line as `pipesd serve` makes it, without what is pipesd's.

    Raises `EmbeddedModelError`, `TargetNameError`.
    """
    worker = _CPU_WORKER if cpu_host.is_cpu_build() else "auto"
    made = vllm_arguments([*arguments, "--worker-cls", worker])
    for flag in _OURS:
        place = made.index(flag)
        del made[place : place + 2]
    return made


def main() -> None:
    """Serve until interrupted."""
    if cpu_host.is_cpu_build():
        cpu_host.limit_threads()
        if (environment := cpu_host.preload_openmp()) is not None:
            os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], environment)
    sys.argv = ["stock vLLM", *stock_arguments(sys.argv[1:])]
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()


if __name__ == "__main__":
    main()
