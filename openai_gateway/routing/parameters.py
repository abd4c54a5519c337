"""Which routes support which parameter: one line each. A listed parameter is never dropped silently.

Fields that are not listed are ignored, as vLLM's and llama.cpp's servers do, so that clients which
send `user`, `metadata`, `store` or a vendor's own fields work unchanged.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openai_gateway.errors import UnsupportedParameter
from pipesd_vllm.wire import MAX_LOGPROBS

__all__ = ["PARAMETERS", "Parameter", "Requirements", "Support", "requirements_of"]


_MEDIA_PARTS: Final = frozenset({"image_url", "input_audio", "audio_url", "video_url"})
# Its default differs by endpoint: raw prompts get special tokens, chat prompts carry their own.
_ADD_SPECIAL_TOKENS: Final = "add_special_tokens"


@dataclass(frozen=True, slots=True)
class Requirements:
    """The parameters of a request that some routes do not support, in the body's order."""

    cloud: tuple[str, ...] = ()
    """Supported only by the server's own API."""
    target: tuple[str, ...] = ()
    """Not supported by the draft model alone."""


def requirements_of(body: Mapping[str, Any], *, adds_special_tokens: bool) -> Requirements:
    """What `body` needs of its route. Raises `UnsupportedParameter` for the first that no route supports."""
    found: dict[Support, list[str]] = {support: [] for support in Support}
    for name, value in _fields(body):
        parameter = PARAMETERS.get(name)
        if name == _ADD_SPECIAL_TOKENS:
            parameter = Parameter(Support.CLOUD, (adds_special_tokens,))
        if parameter is None or _is_neutral(value, parameter):
            continue
        if parameter.support is Support.REFUSED:
            raise _unsupported(name, parameter)
        found[Support.CLOUD if _is_beyond(value, parameter) else parameter.support].append(name)
    return Requirements((*found[Support.CLOUD], *_media(body)), tuple(found[Support.TARGET]))


def _fields(body: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield from body.items()
    if isinstance(options := body.get("stream_options"), dict):
        yield from options.items()


def _is_neutral(value: object, parameter: Parameter) -> bool:
    return value is None or any(_same(value, other) for other in parameter.neutral)


def _is_beyond(value: object, parameter: Parameter) -> bool:
    return parameter.most is not None and type(value) is int and not 0 <= value <= parameter.most


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
    """Where a parameter works, if it asks for anything."""

    COLLABORATIVE = enum.auto()
    """On every route; `local/schema.py` has the field."""
    TARGET = enum.auto()
    """Wherever a target answers, but not with the draft model alone; `local/schema.py` has the field."""
    CLOUD = enum.auto()
    """Only on the server's own API."""
    REFUSED = enum.auto()
    """On no route: a 400 that names it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`neutral`: the values that ask for nothing; null never does.

    `most`: a number above it, or below 0, needs the server's own API.
    """

    support: Support
    neutral: tuple[object, ...] = ()
    most: int | None = None


def _both(*neutral: object) -> Parameter:
    return Parameter(Support.COLLABORATIVE, neutral)


def _target(*neutral: object, most: int | None = None) -> Parameter:
    return Parameter(Support.TARGET, neutral, most)


def _cloud(*neutral: object) -> Parameter:
    return Parameter(Support.CLOUD, neutral)


def _refused(*neutral: object) -> Parameter:
    return Parameter(Support.REFUSED, neutral)


PARAMETERS: Final[Mapping[str, Parameter]] = {
    # How many answers, and what comes with them.
    "n": _cloud(1),
    "best_of": _refused(1),
    "logprobs": _target(False, most=MAX_LOGPROBS),
    "top_logprobs": _target(0, most=MAX_LOGPROBS),
    "prompt_logprobs": _cloud(),
    "logprob_token_ids": _cloud([]),
    "echo": _cloud(False),
    "suffix": _refused(""),
    "modalities": _refused(["text"]),
    "audio": _refused(),
    "return_token_ids": _cloud(False),
    "return_tokens_as_token_ids": _cloud(False),
    "return_token_offsets": _cloud(False),
    "return_prompt_text": _cloud(False),
    "continuous_usage_stats": _cloud(False),
    # How tokens are picked.
    "temperature": _both(),
    "top_p": _both(),
    "seed": _both(),
    "presence_penalty": _both(0),
    "frequency_penalty": _both(0),
    "repetition_penalty": _both(1),
    "repeat_penalty": _refused(1),
    "length_penalty": _cloud(1),
    "logit_bias": _both({}, []),
    "top_k": _both(-1, 0),
    "min_p": _both(0),
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
    "use_beam_search": _cloud(False),
    "bad_words": _both([]),
    "allowed_token_ids": _both([]),
    "watermarking": _cloud(False),
    "vllm_xargs": _cloud({}),
    # Where the answer ends.
    "max_tokens": _both(),
    "max_completion_tokens": _both(),
    "stop": _both(),
    "stop_token_ids": _both(),
    "ignore_eos": _both(),
    "min_tokens": _both(0),
    "n_predict": _refused(-1),
    "include_stop_str_in_output": _cloud(False),
    "skip_special_tokens": _cloud(True),
    "spaces_between_special_tokens": _cloud(True),
    "truncate_prompt_tokens": _cloud(),
    "truncation_side": _cloud(),
    "repetition_detection": _cloud(),
    "thinking_token_budget": _cloud(-1),
    # What form it has.
    "response_format": _both({"type": "text"}),
    "structured_outputs": _both({}),
    "guided_json": _both(),
    "guided_regex": _both(),
    "guided_choice": _both(),
    "guided_grammar": _both(),
    "json_schema": _refused({}),
    "grammar": _refused(""),
    "verbosity": _refused("medium"),
    # Tools and reasoning.
    "tools": _cloud([]),
    "tool_choice": _cloud("none", "auto"),
    "parallel_tool_calls": _both(True, False),
    "functions": _refused([]),
    "function_call": _refused("none", "auto"),
    "web_search_options": _refused(),
    "reasoning_effort": _both(),
    "include_reasoning": _cloud(True),
    # How the prompt is made.
    "chat_template_kwargs": _both(),
    "chat_template": _cloud(),
    "documents": _cloud([]),
    "add_generation_prompt": _cloud(True),
    "continue_final_message": _cloud(False),
    "mm_processor_kwargs": _cloud({}),
    "media_io_kwargs": _cloud({}),
    "prompt_embeds": _cloud(),
}
