"""Translates between wire and vLLM: a turn's `SamplingParams` in and out, log-probabilities out."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from vllm.exceptions import VLLMClientError
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from pipesd_vllm.api.validation import RefuseTurn
from pipesd_vllm.wire import (
    MAX_STRUCTURE_BYTES,
    RefusalCode,
    Sampling,
    Structure,
    StructureKind,
    TokenLogprobs,
)

__all__ = [
    "chunk_params",
    "opening_params",
    "session_params",
    "structured_outputs",
    "token_logprobs",
    "wire_sampling",
]


def opening_params(sampling: Sampling, command: Mapping[str, Any]) -> SamplingParams:
    """Parameters of the request that opens a turn; `command` are the `extra_args` of the scheduler's command.

    They are those of a plain request: vLLM's own sampler picks the tokens. Raises `RefuseTurn`.
    """
    try:
        structure = structured_outputs(sampling.structure)
    except (ValueError, VLLMClientError) as error:
        raise RefuseTurn(RefusalCode.BAD_SAMPLING, f"structure: {error}") from error
    return SamplingParams(
        temperature=sampling.temperature,
        seed=sampling.seed,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        ignore_eos=sampling.ignore_eos,
        stop_token_ids=list(sampling.stop_token_ids),
        bad_words=list(sampling.bad_words),
        logit_bias=dict(sampling.logit_bias) or None,
        allowed_token_ids=list(sampling.allowed_token_ids) or None,
        logprobs=sampling.logprobs,
        structured_outputs=structure,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args=dict(command),
    )


def session_params(params: SamplingParams, command: Mapping[str, Any]) -> SamplingParams:
    """Parameters of the request that opens a stream, for the plain request's `params` (n = 1).

    Its text is made elsewhere, so stop strings are not the engine's business.
    """
    own = copy.copy(params)
    own.stop, own.detokenize, own.stream_interval = [], False, None
    own.output_kind = RequestOutputKind.DELTA
    own.extra_args = dict(command)
    return own


def wire_sampling(params: SamplingParams) -> Sampling:
    """What an edge has to know of `params`. Raises `msgspec.ValidationError` for what the wire cannot say."""
    sampling = Sampling(
        max_tokens=params.max_tokens or 0,
        temperature=params.temperature,
        top_p=params.top_p,
        seed=params.seed,
        ignore_eos=params.ignore_eos,
        stop_token_ids=list(params.stop_token_ids or ()),
        top_k=max(0, params.top_k),
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        min_tokens=params.min_tokens,
        logit_bias=dict(params.logit_bias or {}),
        bad_words=list(params.bad_words or ()),
        allowed_token_ids=list(params.allowed_token_ids or ()),
        logprobs=params.logprobs,
        structure=wire_structure(params.structured_outputs),
    )
    return msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=Sampling)


def wire_structure(structured: StructuredOutputsParams | None) -> Structure | None:
    """The form of an answer as the wire names it; None if it has no name there, or is too long.

    It tells the edge what to draft: drafts that do not have the form are not verified anyhow.
    """
    if structured is None:
        return None
    if structured.json is not None:
        value = structured.json if isinstance(structured.json, str) else json.dumps(structured.json)
        found = Structure(StructureKind.JSON_SCHEMA, value)
    elif structured.json_object:
        found = Structure(StructureKind.JSON_OBJECT)
    elif structured.regex is not None:
        found = Structure(StructureKind.REGEX, structured.regex)
    elif structured.choice is not None:
        found = Structure(StructureKind.CHOICE, json.dumps(structured.choice))
    elif structured.grammar is not None:
        found = Structure(StructureKind.GRAMMAR, structured.grammar)
    else:
        return None
    return found if len(found.value) <= MAX_STRUCTURE_BYTES else None


_CHUNK_PARAMS: Final = SamplingParams(
    max_tokens=1, detokenize=False, output_kind=RequestOutputKind.DELTA, skip_clone=True
)


def chunk_params(command: Mapping[str, Any]) -> SamplingParams:
    """Parameters of a later chunk of a turn; they carry nothing but `command`, the chunk's `extra_args`.

    A copy of what vLLM has checked once: making them anew would cost several times as much with every frame.
    """
    params = _CHUNK_PARAMS.clone()
    params.extra_args = dict(command)
    return params


def structured_outputs(structure: Structure | None) -> StructuredOutputsParams | None:
    """vLLM's form of `structure`. Raises `ValueError` for a choice that is no list of strings."""
    if structure is None:
        return None
    match structure.kind:
        case StructureKind.JSON_SCHEMA:
            return StructuredOutputsParams(json=structure.value)
        case StructureKind.JSON_OBJECT:
            return StructuredOutputsParams(json_object=True)
        case StructureKind.REGEX:
            return StructuredOutputsParams(regex=structure.value)
        case StructureKind.GRAMMAR:
            return StructuredOutputsParams(grammar=structure.value)
        case StructureKind.CHOICE:
            return StructuredOutputsParams(choice=msgspec.json.decode(structure.value, type=list[str]))


def token_logprobs(
    tokens: Sequence[int], logprobs: Sequence[Mapping[int, Logprob]] | None, num_alternatives: int | None
) -> list[TokenLogprobs] | None:
    """`Commit.logprobs` for `tokens`; None if the turn did not ask for them."""
    if logprobs is None or num_alternatives is None:
        return None
    return [_of_token(token, each, num_alternatives) for token, each in zip(tokens, logprobs, strict=True)]


def _of_token(token: int, logprobs: Mapping[int, Logprob], num_alternatives: int) -> TokenLogprobs:
    """vLLM adds the token itself to the alternatives if it is not among them; ranks tell them apart."""
    picked = logprobs[token]
    best = sorted(logprobs.items(), key=lambda item: item[1].rank)[:num_alternatives]
    top = [(other, each.logprob) for other, each in best if each.rank <= num_alternatives]
    return TokenLogprobs(picked.logprob, picked.rank, top)
