from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_agent.api import Sampling, TargetInfo
from openai_gateway.errors import ContextLengthExceeded, InvalidRequest
from openai_gateway.local import CompletionRequest, parse_request
from openai_gateway.local.planning import check_prompt, sampling_settings

TARGET = TargetInfo("org/target", max_model_len=10, vocab_size=100)


def request(**fields: Any) -> CompletionRequest:
    return parse_request(CompletionRequest, msgspec.json.encode({"prompt": "x", **fields}))


def test_defaults_are_openais() -> None:
    """Left out, temperature and top_p are 1 and the answer may fill the context."""
    assert sampling_settings(request(), 4, TARGET) == Sampling(6, temperature=1.0, top_p=1.0)


def test_everything_is_passed_on() -> None:
    """What the client sets is what is asked for, 0 included."""
    fields: dict[str, Any] = {"max_tokens": 2, "temperature": 0, "top_p": 0.5, "seed": 0, "ignore_eos": True}
    settings = sampling_settings(request(stop_token_ids=[7], **fields), 4, TARGET)
    assert settings == Sampling(stop_token_ids=[7], **fields)


@pytest.mark.parametrize(("wanted", "allowed"), [(5, 5), (6, 6), (7, 6), (10, 6), (2**62, 6)])
def test_answers_end_with_the_context(wanted: int, allowed: int) -> None:
    """A limit is cut to what the prompt leaves of the context."""
    assert sampling_settings(request(max_tokens=wanted), 4, TARGET).max_tokens == allowed


def test_more_at_least_than_at_most() -> None:
    """Both numbers are counted before the wire would have to hold them."""
    with pytest.raises(InvalidRequest) as caught:
        sampling_settings(request(max_tokens=5, min_tokens=2**32), 4, TARGET)
    assert caught.value.param == "min_tokens"


def test_prompt_too_long() -> None:
    """A prompt that leaves no room for one token is refused with both numbers."""
    check_prompt((1,) * 9, TARGET, "messages")
    with pytest.raises(ContextLengthExceeded, match=r"10 tokens.*has 10 tokens") as caught:
        check_prompt((1,) * 10, TARGET, "messages")
    assert caught.value.param == "messages"


@pytest.mark.parametrize("prompt", [(), (100,), (0, 2**40), (-1,)])
def test_prompts_that_are_none(prompt: tuple[int, ...]) -> None:
    """An empty prompt and ids outside the vocabulary are refused before they reach the server."""
    with pytest.raises(InvalidRequest) as caught:
        check_prompt(prompt, TARGET, "prompt")
    assert caught.value.param == "prompt"


def test_stop_token_outside_the_vocabulary() -> None:
    """A stop token that cannot be generated is refused."""
    with pytest.raises(InvalidRequest, match="stop_token_ids"):
        sampling_settings(request(stop_token_ids=[100]), 4, TARGET)


ROOMY = TargetInfo("org/target", max_model_len=64, vocab_size=100)


def settings(**fields: Any) -> Sampling:
    body = msgspec.json.encode({"prompt": "x", "max_tokens": 8, "temperature": 0, **fields})
    return sampling_settings(parse_request(CompletionRequest, body), 4, ROOMY)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top_k": 40}, {"top_k": 40}),
        ({"top_k": -1}, {}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        (
            {"presence_penalty": -2, "frequency_penalty": 0.5},
            {"presence_penalty": -2, "frequency_penalty": 0.5},
        ),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"min_tokens": 3}, {"min_tokens": 3}),
        ({"logit_bias": {"7": 1, "99": -100}}, {"logit_bias": {7: 1.0, 99: -100.0}}),
        ({"bad_words": ["no"]}, {"bad_words": ["no"]}),
        ({"allowed_token_ids": [1, 2]}, {"allowed_token_ids": [1, 2]}),
        ({"top_k": None, "logit_bias": None, "bad_words": None, "presence_penalty": None}, {}),
        ({"logit_bias": []}, {}),
    ],
)
def test_each_field_reaches_the_agent(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """What the client sets is what the agent is asked for; null and neutral values ask for nothing."""
    assert settings(**fields) == Sampling(8, **expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.5),
        ("presence_penalty", 2.1),
        ("frequency_penalty", "much"),
        ("repetition_penalty", 0),
        ("min_tokens", -1),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": True}),
        ("logit_bias", {"1": "1"}),
        ("logit_bias", [1]),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("logit_bias", {"100": 1}),
        ("bad_words", [""]),
        ("bad_words", "no"),
        ("stop_token_ids", [1] * 101),
        ("allowed_token_ids", [1] * 1025),
        ("allowed_token_ids", [-1]),
        ("allowed_token_ids", [100]),
    ],
)
def test_what_the_server_could_not_take_is_a_400_that_names_it(name: str, value: object) -> None:
    """Values out of bounds, of the wrong type or outside the vocabulary never reach the server."""
    with pytest.raises(InvalidRequest) as caught:
        settings(**{name: value})
    assert str(caught.value.param).split("[")[0] == name
    assert caught.value.status == 400
