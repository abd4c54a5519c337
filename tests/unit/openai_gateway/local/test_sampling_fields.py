from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_agent.api import Sampling, TargetInfo
from openai_gateway.errors import InvalidRequest
from openai_gateway.local import CompletionRequest, parse_request
from openai_gateway.local.planning import sampling_settings

TARGET = TargetInfo("org/target", max_model_len=64, vocab_size=100)


def settings(**fields: Any) -> Sampling:
    body = msgspec.json.encode({"prompt": "x", "max_tokens": 8, "temperature": 0, **fields})
    return sampling_settings(parse_request(CompletionRequest, body), 4, TARGET)


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
        ("top_k", 1.0),
        ("min_p", 1.5),
        ("presence_penalty", 2.1),
        ("frequency_penalty", "1"),
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
