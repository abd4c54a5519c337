"""Turning a GGUF file into llama.cpp's model and context, and its failures into one clear sentence."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llama_cpp

from edge_agent.errors import ConfigError, ModelError

__all__ = ["KV_TYPES", "LlamaSettings", "load"]

logger = logging.getLogger("pipesd.edge")


_LOG_ERROR = 3  # GGML_LOG_LEVEL_ERROR
_VOCAB_TYPE_NONE = 0  # LLAMA_VOCAB_TYPE_NONE


_ALL_LAYERS: Final = -1
KV_TYPES: Final = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """How to run the draft model. Raises `ConfigError` for values that make no sense.

    `n_ctx` tokens of KV cache are shared by `max_sequences` sequences. `n_batch` tokens at
    most are evaluated in one call. `debug` lets llama.cpp log to stderr; that,
    like llama.cpp's logging itself, is process-wide and the model loaded last decides.
    """

    n_ctx: int = 8192
    max_sequences: int = 4
    max_length: int | None = None
    """Tokens that one sequence may have; None: as many as there is room for."""
    n_batch: int = 512
    longest_call_s: float | None = None
    """Measured speed limits the tokens of a call, too, so that a long prompt holds up nobody for longer."""
    n_threads: int = 1
    n_prompt_threads: int | None = None
    """Threads of calls with more than one token a sequence; None: `n_threads`."""
    n_gpu_layers: int | None = None
    """Layers on a GPU, -1 for all; None: all, or none if they do not fit."""
    flash_attention: bool | None = None
    """None: where llama.cpp finds it faster."""
    kv_type: str = "f16"
    """Of the KV cache: one of `KV_TYPES`. Quantised, a conversation takes less memory and drafts differ."""
    debug: bool = False

    def __post_init__(self) -> None:
        for name in ("n_ctx", "max_sequences", "n_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of the draft model is {getattr(self, name)}: set it to 1 or more")
        if self.n_batch < self.max_sequences:
            raise ConfigError(
                f"n_batch of the draft model is {self.n_batch}: set it to max_sequences "
                f"({self.max_sequences}) or more, so that every sequence can advance in each call"
            )
        if self.kv_type not in KV_TYPES:
            raise ConfigError(f"kv_type of the draft model is {self.kv_type!r}: choose {', '.join(KV_TYPES)}")


def _load_model(path: Path, settings: LlamaSettings, num_gpu_layers: int) -> Any:
    """A `llama_model *`, to be freed by the caller. Raises `ModelError`."""
    _set_logging(settings.debug)
    _start_backend()
    params = llama_cpp.llama_model_default_params()  # mmap is the default
    params.n_gpu_layers = num_gpu_layers
    _log_errors.clear()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelError(
            f"{path} cannot be loaded ({_reason()}): download it again or choose another GGUF file"
        )
    if not _generates_text(model):
        llama_cpp.llama_model_free(model)
        raise ModelError(f"{path} is not a text generation model: choose another GGUF file")
    return model


def _new_context(model: Any, path: Path, settings: LlamaSettings, abort: ctypes.Array[ctypes.c_char]) -> Any:
    """A `llama_context *`, to be freed by the caller. Raises `ModelError`.

    A running decode ends early once `abort` holds b"\\1\\0"; the caller keeps the buffer alive.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = settings.n_ctx
    params.n_batch = settings.n_batch
    params.n_ubatch = min(settings.n_batch, params.n_ubatch)
    params.n_seq_max = settings.max_sequences
    params.kv_unified = True  # prefixes can be shared, and one sequence may use all the room
    params.n_threads = settings.n_threads
    params.n_threads_batch = settings.n_prompt_threads or settings.n_threads
    if settings.flash_attention is not None:
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if settings.flash_attention
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
    params.type_k = params.type_v = KV_TYPES[settings.kv_type]
    params.abort_callback = llama_cpp.ggml_abort_callback(_strlen_address())
    params.abort_callback_data = ctypes.addressof(abort)
    params.n_outputs_max = settings.max_sequences  # else room for the logits of a whole batch is reserved
    _log_errors.clear()
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise ModelError(
            f"no context of {settings.n_ctx} tokens can be made for {path} ({_reason()}): make it smaller"
        )
    if not llama_cpp.llama_get_memory(context):
        llama_cpp.llama_free(context)
        raise ModelError(f"{path} is not a text generation model: choose another GGUF file")
    return context


def load(path: Path, settings: LlamaSettings, abort: ctypes.Array[ctypes.c_char]) -> tuple[Any, Any]:
    """A `llama_model *` and its `llama_context *`, to be freed by the caller, context first.

    Where the settings leave it open, all layers are on a GPU, or none if they do not fit.
    Raises `ModelError`.
    """
    _check_file(path)
    if settings.n_gpu_layers is not None:
        return _load(path, settings, abort, settings.n_gpu_layers)
    try:
        return _load(path, settings, abort, _ALL_LAYERS)
    except ModelError as error:
        if not llama_cpp.llama_supports_gpu_offload():
            raise
        logger.warning("the draft model runs on the CPU, as it does not fit the GPU: %s", error)
        return _load(path, settings, abort, 0)


def _load(
    path: Path, settings: LlamaSettings, abort: ctypes.Array[ctypes.c_char], num_gpu_layers: int
) -> tuple[Any, Any]:
    model = _load_model(path, settings, num_gpu_layers)
    try:
        return model, _new_context(model, path, settings, abort)
    except BaseException:
        llama_cpp.llama_model_free(model)
        raise


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror or error}): give the path of a GGUF file"
        ) from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: give one, llama.cpp reads no other format")


def _generates_text(model: Any) -> bool:
    vocab = llama_cpp.llama_model_get_vocab(model)
    has_vocab = llama_cpp.llama_vocab_type(vocab) != _VOCAB_TYPE_NONE
    has_encoder = llama_cpp.llama_model_has_encoder(model)
    return bool(has_vocab and not has_encoder and llama_cpp.llama_model_has_decoder(model))


@functools.cache
def _start_backend() -> None:
    llama_cpp.llama_backend_init()


@functools.cache
def _strlen_address() -> int:
    """C's `strlen`, used as the abort callback: 1 for the buffer b"\\1\\0", 0 for b"\\0\\0".

    llama.cpp asks before each of the graph's hundreds of nodes. A Python callback would have to get hold
    of the interpreter lock each time, which stalls the model whenever another thread is busy.
    """
    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    address = ctypes.cast(library.strlen, ctypes.c_void_p).value
    assert address is not None
    return address


_log_errors: deque[str] = deque(maxlen=8)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes | None, _user_data: int | None) -> None:
    if level == _LOG_ERROR and text:
        _log_errors.append(text.decode("utf-8", "replace").strip())


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _print_all(level: int, text: bytes | None, user_data: int | None) -> None:
    if text:
        sys.stderr.write(text.decode("utf-8", "replace"))
        if level == _LOG_ERROR:
            _log_errors.append(text.decode("utf-8", "replace").strip())


def _set_logging(debug: bool) -> None:
    # Both callbacks are module-level names: llama.cpp keeps a bare pointer to them.
    llama_cpp.llama_log_set(_print_all if debug else _keep_errors, None)


def _reason() -> str:
    """llama.cpp's first complaint, without the function name it starts with."""
    return _log_errors[0].split(": ", 1)[-1].rstrip(".") if _log_errors else "llama.cpp gives no reason"
