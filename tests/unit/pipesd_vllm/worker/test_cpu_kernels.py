"""The CPU build's kernels do what vLLM's do."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module

import pytest

from pipesd_vllm.launch.cpu_host import is_cpu_build
from pipesd_vllm.worker.cpu_kernels import KERNELS

LAUNCH_OPTIONS = {"num_warps", "num_stages"}

pytestmark = pytest.mark.skipif(not is_cpu_build(), reason="vLLM's CPU build alone interprets Triton")


def test_results_are_those_of_the_interpreted_kernels() -> None:
    """Bit for bit on random inputs, of every kernel; `kernel_comparison.py` has the cases."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipesd_vllm.worker.kernel_comparison"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["differing"] == []
    assert result["launched"] == sorted(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_parameters_are_as_many_as_the_kernels(name: str) -> None:
    """The name is still a kernel's; what launch options an override takes comes on top."""
    module, _, attribute = name.rpartition(".")
    kernel = getattr(import_module(module), attribute)
    names = getattr(kernel, "_dispatch_arg_names", kernel.arg_names)
    parameters = inspect.signature(KERNELS[name]).parameters
    assert len(parameters.keys() - LAUNCH_OPTIONS) == len(names)
