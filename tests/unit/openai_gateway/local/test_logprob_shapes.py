from __future__ import annotations

from openai_gateway.local.shapes import chat_logprobs, completion_logprobs
from openai_gateway.local.text.scores import LOWEST, TokenScore

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
