"""Ollama's `options` as chat parameters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.translation.parameters import refuse

__all__ = ["OWN_NAMES", "chat_options"]

_RENAMED: Final = {
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    **{
        name: name
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "stop",
            "presence_penalty",
            "frequency_penalty",
        )
    },
}
OWN_NAMES: Final = {chat: f"options.{own}" for own, chat in _RENAMED.items()} | {
    "max_completion_tokens": "options.num_predict",
    "response_format": "format",
    "reasoning_effort": "think",
}
"""The chat API's parameters as they are called here, for error messages."""

_NO_LIMIT: Final = (-1, -2)
_HOW_TO_LOAD: Final = frozenset(
    {
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "numa",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""How Ollama would load a model; the server that runs ours is configured elsewhere."""

_NEUTRAL: Final[Mapping[str, Callable[[Any], bool]]] = {
    "mirostat": lambda value: value == 0,
    "mirostat_eta": lambda value: True,  # settings of something that is off
    "mirostat_tau": lambda value: True,
    "penalize_newline": lambda value: True,
    "repeat_last_n": lambda value: value in (-1, 0, 64),  # the default, and values that need no window
    "tfs_z": lambda value: value == 1,
    "typical_p": lambda value: value == 1,
    "draft_num_predict": lambda value: True,
}


def chat_options(options: Mapping[str, Any] | None) -> Json:
    """The chat request's fields for `options`.

    Raises `UnsupportedParameter` for an option that would change the answer and has no counterpart,
    `InvalidRequest` for one that does not exist.
    """
    body: Json = {}
    for name, value in (options or {}).items():
        if value is None or name in _HOW_TO_LOAD or (name == "num_predict" and value in _NO_LIMIT):
            continue
        if (chat_name := _RENAMED.get(name)) is not None:
            body[chat_name] = value
        elif (is_neutral := _NEUTRAL.get(name)) is None:
            raise InvalidRequest(f"'options.{name}' is not an option.", param=f"options.{name}")
        elif not is_neutral(value):
            raise refuse(f"options.{name}", "with this value is not supported here")
    return body
