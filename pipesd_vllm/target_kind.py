"""Refuses, before weights load, the kinds of model and of parallelism that sessions do not work with.

The reasons are in docs/vllm_surface.md, "What is refused".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from pipesd_vllm import compat

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig

__all__ = ["UnsupportedTargetError", "check_arguments", "check_flags", "check_kv_cache", "check_target_kind"]

_NEVER_TRIED: Final = "drafts of different lengths were never tried with it; leave the flag out"
_PARALLELISM: Final = {
    "pipeline_parallel_size": "sessions were never tried on stages; use tensor parallelism",
    "decode_context_parallel_size": _NEVER_TRIED,
    "prefill_context_parallel_size": _NEVER_TRIED,
}
"""Fields of vLLM's `ParallelConfig` and `EngineArgs` that must be 1, and the reason for each."""
_PLAIN: Final = "use a model of attention layers alone, or serve this one without pipesd."


class UnsupportedTargetError(Exception):
    """Sessions cannot work with this model or this parallelism; the text says why and what to do."""


class TargetKind(Protocol):
    """The fields of vLLM's `ModelConfig` that are read."""

    model: str
    architectures: list[str]
    runner_type: str
    is_hybrid: bool
    is_attention_free: bool
    is_encoder_decoder: bool
    is_diffusion: bool


def check_target_kind(model: TargetKind, parallel: Any) -> None:
    """Raise `UnsupportedTargetError` for a kind that sessions do not work with.

    `parallel` is vLLM's `ParallelConfig`, or its `EngineArgs`, which have the same fields.
    """
    name = f"The target {model.model!r} ({', '.join(model.architectures)})"
    if model.is_hybrid or model.is_attention_free:
        raise UnsupportedTargetError(
            f"{name} has recurrent layers, and nothing shows that their state outlives a session's waiting: "
            f"{_PLAIN}"
        )
    for is_it, what in (
        (model.is_encoder_decoder, "is an encoder-decoder model, and a session has no input for the encoder"),
        (model.is_diffusion, "is a diffusion model, which has no next token to draft"),
        (model.runner_type == "pooling", "is served as a pooling model, which generates no text"),
    ):
        if is_it:
            raise UnsupportedTargetError(f"{name} {what}: serve it without pipesd.")
    for field, reason in _PARALLELISM.items():
        size = getattr(parallel, field)
        if size > 1:
            flag = "--" + field.replace("_", "-")
            raise UnsupportedTargetError(f"pipesd does not work with {flag} {size}: {reason}.")


def check_kv_cache(config: KVCacheConfig) -> None:
    """Raise `UnsupportedTargetError` for a cache with recurrent state, whatever its model is called."""
    from vllm.v1.kv_cache_interface import MambaSpec

    if any(isinstance(group.kv_cache_spec, MambaSpec) for group in config.kv_cache_groups):
        raise UnsupportedTargetError(
            f"The target keeps recurrent state, which may not outlive a session's waiting: {_PLAIN}"
        )


def check_flags(arguments: Sequence[str]) -> None:
    """End the process with vLLM's own words if its server has no such `arguments`. Reads no model."""
    compat.make_arg_parser().parse_args(list(arguments))


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise `UnsupportedTargetError` if vLLM's server with these `arguments` is of a refused kind.

    Reads the model's configuration as vLLM does, not its weights. Arguments that vLLM refuses end the
    process with vLLM's own words.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine = AsyncEngineArgs.from_cli_args(compat.make_arg_parser().parse_args(list(arguments)))
    check_target_kind(engine.create_model_config(), engine)
