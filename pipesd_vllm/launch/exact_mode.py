"""`pipesd serve --exact`: vLLM's batch-invariant mode where the platform has it, a plain sentence where not.

Without it the last bits of a logit depend on what else is in the batch, so two tokens that are nearly equal
may swap places between two runs (docs/sampling.md, "What it does not cover").
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Final

__all__ = ["FLAG", "NOT_HERE", "apply_exact", "has_batch_invariance"]

FLAG: Final = "--exact"
_VARIABLE: Final = "VLLM_BATCH_INVARIANT"
NOT_HERE: Final = (
    "--exact: vLLM's batch-invariant mode needs an NVIDIA GPU of compute capability 9.0 or higher, so it "
    "stays off. Texts are the target's own up to near-ties between tokens; --dtype float32 makes those rare."
)


def apply_exact(
    arguments: Sequence[str],
    environment: MutableMapping[str, str],
    supported: Callable[[], bool],
    say: Callable[[str], None],
) -> list[str]:
    """`arguments` without the flag; given, it sets the mode in `environment`, or `say` tells why not."""
    rest = [argument for argument in arguments if argument != FLAG]
    if len(rest) == len(arguments):
        return rest
    if supported():
        environment[_VARIABLE] = "1"
    else:
        say(NOT_HERE)
    return rest


def has_batch_invariance() -> bool:
    """Whether vLLM's batch-invariant mode works on this machine's GPUs."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cuda() and current_platform.has_device_capability(90))
