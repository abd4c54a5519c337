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


@pytest.mark.parametrize(("wanted", "allowed"), [(5, 5), (6, 6), (7, 6), (10, 6)])
def test_answers_end_with_the_context(wanted: int, allowed: int) -> None:
    """A limit that fits the context is cut to what the prompt leaves of it."""
    assert sampling_settings(request(max_tokens=wanted), 4, TARGET).max_tokens == allowed


def test_more_than_the_context() -> None:
    """A limit beyond the whole context is refused with both numbers."""
    with pytest.raises(ContextLengthExceeded, match=r"10 tokens.*11 tokens") as caught:
        sampling_settings(request(max_tokens=11), 4, TARGET)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")


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
