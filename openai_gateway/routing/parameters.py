"""What the draft model alone cannot do, and what nobody here does: one line each.

Whatever the target answers is its server's business: fields that are not listed are passed on. vLLM ignores
those it does not know, so what would change an answer there and does not is refused by name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openai_gateway.errors import UnsupportedParameter

__all__ = ["PARAMETERS", "Parameter", "Requirements", "Support", "requirements_of"]


_MEDIA_PARTS: Final = frozenset({"image_url", "input_audio", "audio_url", "video_url"})


@dataclass(frozen=True, slots=True)
class Requirements:
    """The parameters of a request that the draft model alone does not support, in the body's order."""

    server: tuple[str, ...] = ()
    """Only the server can answer."""
    target: tuple[str, ...] = ()
    """Ignored, and named, where the draft model goes on in the target's place."""


def requirements_of(body: Mapping[str, Any]) -> Requirements:
    """What `body` asks for. Raises `UnsupportedParameter` for the first that no route supports."""
    found: dict[Support, list[str]] = {support: [] for support in Support}
    for name, value in _fields(body):
        if name in RENAMED and value is not None:
            raise UnsupportedParameter(name, f"'{name}' is called '{RENAMED[name]}' now.")
        parameter = PARAMETERS.get(name)
        if parameter is None or _is_neutral(value, parameter):
            continue
        if parameter.support is Support.REFUSED:
            raise _unsupported(name, parameter)
        found[parameter.support].append(name)
    return Requirements((*found[Support.SERVER], *_media(body)), tuple(found[Support.TARGET]))


def _fields(body: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield from body.items()
    if isinstance(options := body.get("stream_options"), dict):
        yield from options.items()


def _is_neutral(value: object, parameter: Parameter) -> bool:
    return value is None or any(_same(value, other) for other in parameter.neutral)


def _same(value: object, neutral: object) -> bool:
    # `logprobs: 0` asks for something, `logprobs: false` does not, and Python calls them equal.
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _unsupported(name: str, parameter: Parameter) -> UnsupportedParameter:
    hint = f"; only {' or '.join(map(repr, parameter.neutral))} is" if parameter.neutral else ""
    return UnsupportedParameter(name, f"'{name}' with this value is not supported{hint}.")


def _media(body: Mapping[str, Any]) -> Iterator[str]:
    """Images and sounds need the server's own processing; several prompts are several answers."""
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list) and any(_has_media(message) for message in messages):
        yield "messages"
    if isinstance(prompt, list) and len(prompt) > 1 and _are_prompts(prompt):
        yield "prompt"


def _are_prompts(prompts: list[object]) -> bool:
    return all(isinstance(prompt, str) for prompt in prompts) or all(
        isinstance(prompt, list) and all(type(token_id) is int for token_id in prompt) for prompt in prompts
    )


def _has_media(message: object) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and str(part.get("type")) in _MEDIA_PARTS for part in parts)


class Support(enum.Enum):
    """Who supports a parameter, if it asks for anything. What everybody does is not listed."""

    TARGET = enum.auto()
    """A target; the draft model ignores it."""
    SERVER = enum.auto()
    """The server alone."""
    REFUSED = enum.auto()
    """Nobody: a 400 that names it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`neutral`: the values that ask for nothing; null never does."""

    support: Support
    neutral: tuple[object, ...] = ()


def _target(*neutral: object) -> Parameter:
    return Parameter(Support.TARGET, neutral)


def _server(*neutral: object) -> Parameter:
    return Parameter(Support.SERVER, neutral)


def _refused(*neutral: object) -> Parameter:
    return Parameter(Support.REFUSED, neutral)


RENAMED: Final[Mapping[str, str]] = {"pipesd_seed": "seed"}
"""Names of older versions, and those of today."""

PARAMETERS: Final[Mapping[str, Parameter]] = {
    # How many answers, and what comes with them.
    "n": _server(1),
    "best_of": _refused(1),
    "logprobs": _target(False),
    "top_logprobs": _target(0),
    "prompt_logprobs": _server(),
    "logprob_token_ids": _server([]),
    "echo": _server(False),
    "suffix": _refused(""),
    "modalities": _refused(["text"]),
    "audio": _refused(),
    "return_token_ids": _server(False),
    "return_tokens_as_token_ids": _server(False),
    "return_token_offsets": _server(False),
    "return_prompt_text": _server(False),
    "continuous_usage_stats": _server(False),
    # How tokens are picked.
    "repeat_penalty": _refused(1),
    "length_penalty": _server(1),
    # Other servers' samplers. What only sets one of them (`xtc_threshold`, `mirostat_tau`) may be there.
    "typical_p": _refused(1),
    "mirostat": _refused(0),
    "mirostat_mode": _refused(0),
    "xtc_probability": _refused(0),
    "dry_multiplier": _refused(0),
    "tfs": _refused(1),
    "tfs_z": _refused(1),
    "top_a": _refused(0),
    "top_n_sigma": _refused(-1, 0),
    "dynatemp_range": _refused(0),
    "smoothing_factor": _refused(0),
    "epsilon_cutoff": _refused(0),
    "eta_cutoff": _refused(0),
    "guidance_scale": _refused(1),
    "negative_prompt": _refused(""),
    "samplers": _refused([], ""),
    "sampler_order": _refused([]),
    "sampler_priority": _refused([]),
    "use_beam_search": _server(False),
    "watermarking": _server(False),
    "vllm_xargs": _server({}),
    # Where the answer ends.
    "n_predict": _refused(-1),
    "include_stop_str_in_output": _server(False),
    "skip_special_tokens": _server(True),
    "spaces_between_special_tokens": _server(True),
    "truncate_prompt_tokens": _server(),
    "truncation_side": _server(),
    "repetition_detection": _server(),
    "thinking_token_budget": _server(-1),
    # What form it has.
    "json_schema": _refused({}),
    "grammar": _refused(""),
    "verbosity": _refused("medium"),
    # Tools and reasoning.
    "tools": _server([]),
    "tool_choice": _server("none", "auto"),
    "functions": _refused([]),
    "function_call": _refused("none", "auto"),
    "web_search_options": _refused(),
    "include_reasoning": _server(True),
    # How the prompt is made.
    "chat_template": _server(),
    "documents": _server([]),
    "add_special_tokens": _server(),
    "add_generation_prompt": _server(True),
    "continue_final_message": _server(False),
    "mm_processor_kwargs": _server({}),
    "media_io_kwargs": _server({}),
    "prompt_embeds": _server(),
}
