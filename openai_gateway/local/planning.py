"""From a client's request and a tokenised prompt to what the edge agent is asked for."""

from __future__ import annotations

from edge_agent.api import Sampling, TargetInfo
from openai_gateway.errors import ContextLengthExceeded, InvalidRequest
from openai_gateway.local.schema import CompletionRequest, GenerationFields
from openai_gateway.local.structures import structure_of

__all__ = ["check_prompt", "sampling_settings"]

# Of bodies that were not completed before (routing/normaliser.py).
DEFAULT_TEMPERATURE = 1.0
DEFAULT_TOP_P = 1.0
COMPLETION_MAX_TOKENS = 16
"""For `/v1/completions` alone; a chat may use the rest of the context."""


def check_prompt(prompt_token_ids: tuple[int, ...], target: TargetInfo, param: str) -> None:
    """Raise `InvalidRequest` for a prompt the target cannot take; `param` names its field."""
    if not prompt_token_ids:
        raise InvalidRequest(
            f"'{param}' is empty: there is nothing to continue.", param=param, code="invalid_value"
        )
    if not 0 <= min(prompt_token_ids) <= max(prompt_token_ids) < target.vocab_size:
        raise InvalidRequest(f"'{param}' has a token id outside 0 to {target.vocab_size - 1}.", param=param)
    if len(prompt_token_ids) >= target.max_model_len:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {target.max_model_len} tokens. However, your prompt "
            f"has {len(prompt_token_ids)} tokens, which leaves no room for an answer. Please shorten it.",
            param=param,
        )


def sampling_settings(request: GenerationFields, num_prompt_tokens: int, target: TargetInfo) -> Sampling:
    """How to generate; without a limit the answer may fill the context.

    Raises `InvalidRequest` for token ids outside the vocabulary, for more tokens at least than at most, and
    for a form that cannot be asked for.
    """
    max_tokens = _max_tokens(request, num_prompt_tokens, target.max_model_len)
    if (request.min_tokens or 0) > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' is above max_tokens={max_tokens}.", param="min_tokens", code="invalid_value"
        )
    settings = Sampling(
        max_tokens=max_tokens,
        temperature=DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
        top_p=DEFAULT_TOP_P if request.top_p is None else request.top_p,
        seed=request.seed,
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=request.stop_token_ids or [],
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        min_tokens=request.min_tokens or 0,
        logit_bias=request.logit_bias,
        bad_words=request.bad_words or [],
        allowed_token_ids=request.allowed_token_ids or [],
        logprobs=0 if request.wants_logprobs else None,
        structure=structure_of(request),
    )
    _check_token_ids(settings, target)
    return settings


def _check_token_ids(settings: Sampling, target: TargetInfo) -> None:
    ids = {
        "stop_token_ids": settings.stop_token_ids,
        "logit_bias": settings.logit_bias,
        "allowed_token_ids": settings.allowed_token_ids,
    }
    for param, token_ids in ids.items():
        if max(token_ids, default=0) >= target.vocab_size:
            raise InvalidRequest(
                f"'{param}' has an id outside 0 to {target.vocab_size - 1}.",
                param=param,
                code="invalid_value",
            )


def _max_tokens(request: GenerationFields, num_prompt_tokens: int, max_model_len: int) -> int:
    """A limit beyond the context means what is left of it."""
    room = max_model_len - num_prompt_tokens
    wanted = request.token_limit
    if wanted is None:
        return min(room, COMPLETION_MAX_TOKENS) if isinstance(request, CompletionRequest) else room
    return min(wanted, room)
