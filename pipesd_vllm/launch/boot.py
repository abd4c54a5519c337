"""What must hold before vLLM is imported: Model Runner V2, and on the CPU build a Triton that interprets.

vLLM's CPU build spawns its processes, and a spawned process first imports the parent's main module, then what
it was asked to run (Python's `multiprocessing.spawn`). So `boot` at the top level of the module that launches
vLLM (`serve.py`) comes before vLLM in all of them.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from pipesd_vllm.launch.cpu_host import is_cpu_build

__all__ = ["boot"]


def boot(environment: MutableMapping[str, str] = os.environ) -> None:
    """Choose Model Runner V2; on vLLM's CPU build also name a Triton backend, which V2 asks for."""
    environment["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    if is_cpu_build():
        environment["TRITON_INTERPRET"] = "1"
        _name_cpu_backend()


def _name_cpu_backend() -> None:
    """vLLM's CPU build takes Triton for present if it has a backend of the name `cpu`; nothing runs on it."""
    from triton.backends import Backend, backends
    from triton.backends.driver import DriverBase

    class NoDriver(DriverBase):
        """Triton never chooses it."""

        def __init__(self) -> None:
            """There is no device."""

        @classmethod
        def is_active(cls) -> bool:
            return False

        def map_python_to_cpp_type(self, ty: str) -> str:
            raise NotImplementedError

        def get_current_target(self) -> None:
            raise NotImplementedError

        def get_active_torch_device(self) -> None:
            raise NotImplementedError

        def get_benchmarker(self) -> None:
            raise NotImplementedError

    backends.setdefault("cpu", Backend(compiler=None, driver=NoDriver))
