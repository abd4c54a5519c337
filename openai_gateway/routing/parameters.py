"""What the draft model alone cannot do, and what nobody here does: one line each.

Whatever the target answers is its server's business: all fields are passed on. vLLM drops those that it does
not know without a word. So they are named in the answer, or refused by name if it would be another one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openai_gateway.errors import UnsupportedParameter
from pipesd_vllm.wire import AskPath

__all__ = [
    "CHANGES_NOTHING",
    "PARAMETERS",
    "RENAMED",
    "VLLM_FIELDS",
    "Parameter",
    "Requirements",
    "Support",
    "requirements_of",
]


_MEDIA_PARTS: Final = frozenset({"image_url", "input_audio", "audio_url", "video_url"})


@dataclass(frozen=True, slots=True)
class Requirements:
    """The parameters of a request that the draft model alone does not support, in the body's order."""

    server: tuple[str, ...] = ()
    """Only the server can answer."""
    target: tuple[str, ...] = ()
    """Ignored, and named, where the draft model goes on in the target's place."""
    nobody: tuple[str, ...] = ()
    """Ignored, and named, on every route."""


def requirements_of(body: Mapping[str, Any], path: AskPath) -> Requirements:
    """What `body` asks of `path`.

    Raises `UnsupportedParameter` for the first that nobody has and the answer would lack.
    """
    found: dict[Support, list[str]] = {support: [] for support in Support}
    for name, value in body.items():
        if name in RENAMED and value is not None:
            raise UnsupportedParameter(name, f"'{name}' is called '{RENAMED[name]}' now.")
        parameter = PARAMETERS.get(name) or _unlisted(name, path)
        if _is_neutral(value, parameter):
            continue
        if parameter.support is Support.REFUSED:
            raise _unsupported(name, parameter)
        found[parameter.support].append(name)
    server = (*found[Support.SERVER], *_media(body))
    return Requirements(server, tuple(found[Support.TARGET]), tuple(found[Support.NOBODY]))


def _unlisted(name: str, path: AskPath) -> Parameter:
    is_read = name in VLLM_FIELDS[path] or name in CHANGES_NOTHING
    return Parameter(Support.EVERYBODY if is_read else Support.NOBODY)


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
    """Who supports a parameter, if it asks for anything."""

    EVERYBODY = enum.auto()
    """Every route; such parameters are not listed."""
    TARGET = enum.auto()
    """A target; the draft model ignores it."""
    SERVER = enum.auto()
    """The server alone."""
    NOBODY = enum.auto()
    """Nobody; the answer is one all the same, and names it in `pipesd.ignored`."""
    REFUSED = enum.auto()
    """Nobody, and the answer would be another one: a 400 that names it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`neutral`: the values that ask for nothing; null never does."""

    support: Support
    neutral: tuple[object, ...] = ()


def _target(*neutral: object) -> Parameter:
    return Parameter(Support.TARGET, neutral)


def _server(*neutral: object) -> Parameter:
    return Parameter(Support.SERVER, neutral)


def _nobody(*neutral: object) -> Parameter:
    return Parameter(Support.NOBODY, neutral)


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
    # How tokens are picked.
    "length_penalty": _server(1),
    # Other servers' samplers.
    "typical_p": _nobody(1),
    "mirostat": _nobody(0),
    "repeat_last_n": _nobody(-1, 0, 64),
    "mirostat_mode": _nobody(0),
    "xtc_probability": _nobody(0),
    "dry_multiplier": _nobody(0),
    "tfs": _nobody(1),
    "tfs_z": _nobody(1),
    "top_a": _nobody(0),
    "top_n_sigma": _nobody(-1, 0),
    "dynatemp_range": _nobody(0),
    "smoothing_factor": _nobody(0),
    "epsilon_cutoff": _nobody(0),
    "eta_cutoff": _nobody(0),
    "guidance_scale": _refused(1),
    "negative_prompt": _refused(""),
    "logits_processors": _refused([]),
    "samplers": _nobody([], ""),
    "sampler_order": _nobody([]),
    "sampler_priority": _nobody([]),
    "use_beam_search": _server(False),
    "watermarking": _server(False),
    "vllm_xargs": _server({}),
    # Where the answer ends.
    "include_stop_str_in_output": _server(False),
    "skip_special_tokens": _server(True),
    "spaces_between_special_tokens": _server(True),
    "truncate_prompt_tokens": _server(),
    "truncation_side": _server(),
    "repetition_detection": _server(),
    "thinking_token_budget": _server(-1),
    # What form it has.
    "verbosity": _nobody("medium"),
    # Tools and reasoning.
    "tools": _server([]),
    "tool_choice": _server("none", "auto"),
    "functions": _refused([]),
    "function_call": _refused("none", "auto"),
    "web_search_options": _refused(),
    "moderation": _nobody(),
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
    # What other servers put into it.
    "image_data": _refused([]),
    "multimodal_data": _refused([]),
    "system_prompt": _refused(""),
}

CHANGES_NOTHING: Final = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
    }
)
"""OpenAI's own that are about billing, caching, speed and who asks. Not named: no answer depends on them."""

_BOTH: Final = """
add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params echo frequency_penalty
ignore_eos include_stop_str_in_output kv_transfer_params length_penalty logit_bias logprob_token_ids
logprobs max_tokens min_p min_tokens mm_payload model n presence_penalty priority prompt_logprobs
repetition_detection repetition_penalty request_id response_format return_mm_kwargs return_token_ids
return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start seed session_id
skip_special_tokens spaces_between_special_tokens stop stop_token_ids stream stream_interval stream_options
structured_outputs temperature thinking_token_budget top_k top_p truncate_prompt_tokens truncation_side
use_beam_search user vllm_xargs watermarking
"""
_CHAT: Final = """
add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
max_completion_tokens media_io_kwargs messages mm_processor_kwargs parallel_tool_calls reasoning_effort
return_prompt_text tool_choice tools top_logprobs
"""
_COMPLETIONS: Final = "prompt prompt_embeds suffix"
VLLM_FIELDS: Final[Mapping[AskPath, frozenset[str]]] = {
    "/v1/chat/completions": frozenset((_BOTH + _CHAT).split()),
    "/v1/completions": frozenset((_BOTH + _COMPLETIONS).split()),
}
"""What vLLM's requests have. A test compares it with the installed vLLM's, in both directions."""
