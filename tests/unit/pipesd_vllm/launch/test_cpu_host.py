"""Flags for vLLM's CPU build depend on what the CPU can do."""

import os
from importlib import import_module
from pathlib import Path

import pytest
from vllm.v1.executor.abstract import Executor

from pipesd_vllm.launch.cpu_host import (
    embedded_flags,
    executor_flags,
    has_fast_bfloat16,
    limit_threads,
    preload_openmp,
)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2 fma", False), ("fpu avx512_bf16", True), ("avx512f amx_bf16", True)],
)
def test_bfloat16_support_is_read_from_the_cpu_flags(tmp_path: Path, flags: str, fast: bool) -> None:
    """Only CPUs that multiply bfloat16 natively count as fast."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert has_fast_bfloat16(cpuinfo) is fast


def test_unknown_machines_keep_vllms_choice(tmp_path: Path) -> None:
    """Without /proc/cpuinfo nothing is changed."""
    assert has_fast_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(
    "library", ["libiomp5.so", "libomp.so.5", "libgomp.so.1", "libgomp-a34b3233.so.1.0.0"]
)
def test_an_openmp_that_is_preloaded_stays(library: str) -> None:
    """vLLM does not start with two of them; its own CPU platform preloads one in what it starts."""
    assert preload_openmp({"LD_PRELOAD": f"/other.so:/x/{library}"}) is None


def test_openmp_is_preloaded_once() -> None:
    """The second start finds it preloaded and goes on; other preloads are kept."""
    environment = preload_openmp({"LD_PRELOAD": "/other.so"})
    assert environment is None or environment["LD_PRELOAD"].endswith(":/other.so")
    if environment is not None:
        assert preload_openmp(environment) is None


def test_the_embedded_model_takes_little_memory_unless_told_otherwise() -> None:
    """Flags and environment of the user win over ours."""
    assert "--kv-cache-memory-bytes" in embedded_flags(frozenset(), {})
    assert "--kv-cache-memory-bytes" not in embedded_flags(frozenset(), {"VLLM_CPU_KVCACHE_SPACE": "4"})
    given = frozenset({"--kv-cache-memory-bytes", "--enforce-eager", "--dtype"})
    assert embedded_flags(given, {}) == []


def test_our_executor_is_named_unless_another_is() -> None:
    """vLLM takes no executor but its own for several nodes."""
    flag, name = executor_flags(frozenset())
    module, _, attribute = name.rpartition(".")
    assert flag == "--distributed-executor-backend"
    assert issubclass(getattr(import_module(module), attribute), Executor)
    for given in ({flag}, {"--nnodes"}):
        assert executor_flags(frozenset(given)) == []


def test_a_core_is_left_to_others() -> None:
    """Unless the user says how many threads there are to be."""
    environment: dict[str, str] = {}
    limit_threads(environment)
    assert 1 <= int(environment["OMP_NUM_THREADS"]) < max(2, len(os.sched_getaffinity(0)))
    environment = {"OMP_NUM_THREADS": "7"}
    limit_threads(environment)
    assert environment == {"OMP_NUM_THREADS": "7"}
