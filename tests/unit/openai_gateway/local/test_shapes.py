from __future__ import annotations

import pytest

from edge_agent.api import FinishReason
from openai_gateway.local import model_card
from openai_gateway.local.shapes import (
    ChatShape,
    CompletionShape,
    Envelope,
    Shape,
    chat_logprobs,
    completion_logprobs,
)
from openai_gateway.local.text.scores import LOWEST, TokenScore


@pytest.mark.parametrize("shape", [ChatShape(), CompletionShape()])
def test_choices_have_openais_fields(shape: Shape) -> None:
    """Every choice has an index and a finish reason, null until the last."""
    choices = [shape.text("a"), shape.finish(FinishReason.LENGTH), shape.whole("a", FinishReason.STOP)]
    assert [choice["finish_reason"] for choice in choices] == [None, "length", "stop"]
    assert {choice["index"] for choice in choices} == {0}


def test_envelope_and_card() -> None:
    """Bodies carry id, object, creation time and model."""
    body = Envelope("id-1", "org/target", 7).wrap("chat.completion", [])
    assert body == {
        "id": "id-1",
        "object": "chat.completion",
        "created": 7,
        "model": "org/target",
        "choices": [],
    }
    assert model_card("org/target", 128, 7)["max_model_len"] == 128


SCORES = [
    TokenScore("é", -1.5, (("a", -0.5), ("b", -1.0)), 0),
    TokenScore("a", -0.25, (("a", -0.25), ("b", -2.0)), 1),
    TokenScore("x", None, (), 2),
]


def test_chat() -> None:
    """A chat's tokens carry their bytes; one that no target has seen has OpenAI's number for "unknown"."""
    first, _, last = chat_logprobs(SCORES)["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("é", -1.5, [195, 169])
    assert [(each["token"], each["logprob"]) for each in first["top_logprobs"]] == [("a", -0.5), ("b", -1.0)]
    assert last == {"token": "x", "logprob": LOWEST, "bytes": [120], "top_logprobs": []}


def test_completion() -> None:
    """Four lists of equal length; the chosen token is among its alternatives, likely or not."""
    assert completion_logprobs(SCORES) == {
        "tokens": ["é", "a", "x"],
        "token_logprobs": [-1.5, -0.25, None],
        "top_logprobs": [{"é": -1.5, "a": -0.5, "b": -1.0}, {"a": -0.25, "b": -2.0}, None],
        "text_offset": [0, 1, 2],
    }
