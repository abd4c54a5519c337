"""What holds before vLLM is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from pipesd_vllm.launch import boot as booting
from pipesd_vllm.launch.cpu_host import is_cpu_build

CHANGED = ("VLLM_USE_V2_MODEL_RUNNER", "TRITON_INTERPRET")


def child(program: str) -> Any:
    """What a program prints, as JSON, that starts without what `boot` sets."""
    environment = {name: value for name, value in os.environ.items() if name not in CHANGED}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.skipif(not is_cpu_build(), reason="vLLM's CPU build alone interprets Triton")
def test_a_spawned_process_of_the_cpu_build_finds_triton() -> None:
    """It imports the launching module first, without vLLM; the backend's name is there for vLLM alone."""
    program = """
        import json, os, runpy, sys
        runpy.run_module("pipesd_vllm.launch.serve", run_name="__mp_main__")
        from pipesd_vllm.launch.boot import boot
        boot()
        early = "vllm" in sys.modules
        from triton.backends import backends
        names = sorted(backends)
        active = backends["cpu"].driver.is_active()
        from vllm.triton_utils import HAS_TRITON
        print(json.dumps([os.environ.get("VLLM_USE_V2_MODEL_RUNNER"), os.environ.get("TRITON_INTERPRET"),
                          early, names.count("cpu"), active, HAS_TRITON]))
    """
    assert child(textwrap.dedent(program)) == ["1", "1", False, 1, False, True]


def test_a_gpu_build_keeps_its_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model runner is chosen, and nothing else is touched."""
    monkeypatch.setattr(booting, "is_cpu_build", lambda: False)
    monkeypatch.setattr(booting, "_name_cpu_backend", lambda: pytest.fail("a backend was named"))
    environment: dict[str, str] = {}
    booting.boot(environment)
    assert environment == {"VLLM_USE_V2_MODEL_RUNNER": "1"}
