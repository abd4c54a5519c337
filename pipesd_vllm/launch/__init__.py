"""What happens before vLLM starts: `pipesd serve`, the target's name, the embedded target.

A module is imported when a name of it is first asked for: `serve`, `embedded` and `embedded_build` are also
run as programs (`python -m`), and Python warns about one that its package has imported already.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipesd_vllm.launch.cpu_host import embedded_flags, is_cpu_build
    from pipesd_vllm.launch.embedded import EmbeddedModelError, embedded_gguf, ensure_embedded_target
    from pipesd_vllm.launch.embedded_tokenizer import write_tokenizer
    from pipesd_vllm.launch.serve import vllm_arguments

__all__ = [
    "EmbeddedModelError",
    "embedded_flags",
    "embedded_gguf",
    "ensure_embedded_target",
    "is_cpu_build",
    "vllm_arguments",
    "write_tokenizer",
]

_MODULES: Final = {
    "EmbeddedModelError": "embedded",
    "embedded_flags": "cpu_host",
    "embedded_gguf": "embedded",
    "ensure_embedded_target": "embedded",
    "is_cpu_build": "cpu_host",
    "vllm_arguments": "serve",
    "write_tokenizer": "embedded_tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
