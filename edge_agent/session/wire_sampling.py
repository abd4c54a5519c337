"""Sampling settings as the wire carries them. Pure."""

from __future__ import annotations

from edge_agent.api import SamplingSettings
from pipesd_vllm.wire import Sampling

__all__ = ["wire_sampling"]


def wire_sampling(settings: SamplingSettings) -> Sampling:
    """What `Open` says about `settings`: everything."""
    return Sampling(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        ignore_eos=settings.ignore_eos,
        stop_token_ids=list(settings.stop_token_ids),
        top_k=settings.top_k,
        min_p=settings.min_p,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        repetition_penalty=settings.repetition_penalty,
        min_tokens=settings.min_tokens,
        logit_bias=dict(settings.logit_bias),
        bad_words=list(settings.bad_words),
        allowed_token_ids=list(settings.allowed_token_ids),
        logprobs=settings.logprobs,
        structure=settings.structure,
    )
