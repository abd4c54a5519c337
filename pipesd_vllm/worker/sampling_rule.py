"""How one request's tokens are picked by the coupled sampler, as it travels to the workers.

Two ways lead here, both through `SamplingParams.extra_args`: a session's rule is packed by
`pack_rule`; an ordinary request asks for the noise of a seed with `{"pipesd_seed": N}` (`vllm_xargs` in
vLLM's own API) and keeps its other parameters where vLLM has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from pipesd_vllm.wire import Sampling

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

__all__ = ["MIN_TEMPERATURE", "SEED_KEY", "SamplingRule", "has_rule", "pack_rule", "read_rule", "rule_of"]

RULE_KEY: Final = "pipesd_rule"
SEED_KEY: Final = "pipesd_seed"
MIN_TEMPERATURE: Final = 0.01
"""Temperatures between 0 and this one are raised to it, as vLLM does; below it softmax overflows."""
_GREEDY_BELOW: Final = 1e-5  # vLLM's own _SAMPLING_EPS


class SamplingRule(msgspec.Struct, array_like=True, frozen=True):
    """The fields of `protocol.Sampling` that concern the choice of a token.

    `num_committed`: the last so many prompt tokens were generated before this request began (a session
    taken over), so penalties, bad words and `min_tokens` count them as generated.
    """

    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: list[int] = []
    num_committed: int = 0
    bad_words: list[list[int]] = []
    stop_token_ids: list[int] = []

    @property
    def penalises(self) -> bool:
        """Whether what was generated before bears on the choice through penalties."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)

    @property
    def adjusts(self) -> bool:
        """Whether the logits are changed before temperature and the cuts of the distribution."""
        return bool(
            self.penalises or self.min_tokens or self.logit_bias or self.allowed_token_ids or self.bad_words
        )


def rule_of(sampling: Sampling, num_committed: int) -> SamplingRule:
    """A session's rule. Stop tokens and the tokens of bad words are added on arrival (`read_rule`)."""
    temperature = sampling.temperature
    return SamplingRule(
        seed=sampling.seed or 0,
        temperature=max(temperature, MIN_TEMPERATURE) if temperature > 0 else 0.0,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        min_tokens=sampling.min_tokens,
        logit_bias=sampling.logit_bias,
        allowed_token_ids=sampling.allowed_token_ids,
        num_committed=num_committed,
    )


def pack_rule(rule: SamplingRule) -> dict[str, Any]:
    """`extra_args` that carry `rule`: as bytes, which no client of vLLM's JSON API can send."""
    return {RULE_KEY: msgspec.msgpack.encode(rule)}


def has_rule(params: SamplingParams | None) -> bool:
    """Whether a request is sampled by a rule, one that cannot be read included."""
    extra_args: dict[str, Any] = (params.extra_args if params is not None else None) or {}
    return not extra_args.keys().isdisjoint((RULE_KEY, SEED_KEY))


def read_rule(params: SamplingParams | None) -> SamplingRule | None:
    """The rule of a request in the worker; None for one that vLLM's own sampler serves."""
    extra_args = params.extra_args if params is not None else None
    if not params or not extra_args:
        return None
    packed = extra_args.get(RULE_KEY)
    if isinstance(packed, bytes):
        rule = msgspec.msgpack.decode(packed, type=SamplingRule)
    elif _is_seed(seed := extra_args.get(SEED_KEY)):
        rule = _own_rule(params, seed)
    else:
        return None
    return msgspec.structs.replace(
        rule,
        bad_words=params.bad_words_token_ids or [],
        stop_token_ids=sorted(params.all_stop_token_ids) if rule.min_tokens else [],
    )


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _own_rule(params: SamplingParams, seed: int) -> SamplingRule:
    return SamplingRule(
        seed=seed,
        temperature=params.temperature if params.temperature >= _GREEDY_BELOW else 0.0,
        top_p=params.top_p,
        top_k=max(params.top_k, 0),
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        min_tokens=params.min_tokens,
        logit_bias=params.logit_bias or {},
        allowed_token_ids=params.allowed_token_ids or [],
    )
