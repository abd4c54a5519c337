"""A rule's way from the wire, or from an ordinary request, to the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pipesd_vllm.worker.sampling_rule import SamplingRule, pack_rule, read_rule, rule_of

from pipesd_vllm.wire import Sampling


@dataclass
class Params:
    """The fields of vLLM's `SamplingParams` that matter, with its defaults."""

    extra_args: dict[str, Any] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words_token_ids: list[list[int]] | None = None
    all_stop_token_ids: set[int] = field(default_factory=set)


WIRE = Sampling(
    8,
    temperature=0.5,
    top_p=0.9,
    seed=-3,
    top_k=5,
    min_p=0.1,
    presence_penalty=1.0,
    frequency_penalty=-1.0,
    repetition_penalty=1.5,
    min_tokens=2,
    logit_bias={3: -2.0},
    allowed_token_ids=[1, 3],
)


def test_a_sessions_rule_arrives() -> None:
    """Every field survives; stop tokens and the tokens of bad words come from vLLM's own parameters."""
    params = Params(pack_rule(rule_of(WIRE, 4)), bad_words_token_ids=[[7, 8]], all_stop_token_ids={2, 0})
    assert read_rule(params) == SamplingRule(
        -3, 0.5, 0.9, 5, 0.1, 1.0, -1.0, 1.5, 2, {3: -2.0}, [1, 3], 4, [[7, 8]], [0, 2]
    )


def test_an_ordinary_request_may_ask_for_the_noise() -> None:
    """With `pipesd_seed` vLLM's own parameters become the rule; the text is that of a session with them."""
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "presence_penalty": 1.0, "min_tokens": 2}
    params = Params({"pipesd_seed": 9}, all_stop_token_ids={0}, **fields)  # type: ignore[arg-type]
    session = Params(pack_rule(rule_of(Sampling(8, seed=9, **fields), 0)), all_stop_token_ids={0})  # type: ignore[arg-type]
    assert read_rule(params) == read_rule(session)


@pytest.mark.parametrize(
    "extra_args",
    [None, {}, {"other": 1}, {"pipesd_seed": "9"}, {"pipesd_seed": True}, {"pipesd_rule": "x"}],
)
def test_other_requests_have_no_rule(extra_args: dict[str, Any] | None) -> None:
    """What does not ask for the noise, or what JSON can forge, is left to vLLM's sampler."""
    assert read_rule(Params(extra_args)) is None


@pytest.mark.parametrize(("temperature", "used"), [(0.0, 0.0), (0.001, 0.01), (0.01, 0.01), (1.5, 1.5)])
def test_tiny_temperatures_are_raised_as_vllm_does(temperature: float, used: float) -> None:
    """Between 0 and 0.01 both ways of asking sample at 0.01."""
    assert rule_of(Sampling(1, temperature=temperature, seed=0), 0).temperature == used
