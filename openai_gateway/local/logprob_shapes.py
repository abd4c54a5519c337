"""Log-probabilities in OpenAI's two shapes, one for chats and one for raw completions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openai_gateway.local.text.scores import LOWEST, TokenScore

__all__ = ["chat_logprobs", "completion_logprobs"]

Json = dict[str, Any]


def chat_logprobs(scores: Sequence[TokenScore]) -> Json:
    """`logprobs` of a choice of /v1/chat/completions; its numbers may not be null."""
    return {"content": [_chat_token(score) for score in scores]}


def _chat_token(score: TokenScore) -> Json:
    logprob = LOWEST if score.logprob is None else score.logprob
    return {
        **_named(score.text, logprob),
        "top_logprobs": [_named(text, each) for text, each in score.top],
    }


def _named(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def completion_logprobs(scores: Sequence[TokenScore]) -> Json:
    """`logprobs` of a choice of /v1/completions; the chosen token is always among `top_logprobs`."""
    return {
        "tokens": [score.text for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [_alternatives(score) for score in scores],
        "text_offset": [score.offset for score in scores],
    }


def _alternatives(score: TokenScore) -> Json | None:
    return None if score.logprob is None else {score.text: score.logprob, **dict(score.top)}
