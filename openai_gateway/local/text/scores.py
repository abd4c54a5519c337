"""What the target thought of each token, in words: what OpenAI's `logprobs` are made of. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openai_gateway.local.text.detokenizer import REPLACEMENT
from pipesd_vllm.wire import TokenLogprobs

__all__ = ["TokenScore", "TokenScorer"]

MAX_UNFINISHED_TOKENS = 8
"""More than any characters that share tokens have; longer runs are no text at all."""
LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no number for."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token of an answer. `top`: the target's likeliest tokens in its place, best first.

    `logprob` is None for a token that no target has seen. A character that takes several tokens is the
    text of the last of them. `offset`: the length of the texts of the tokens before it, in characters.
    """

    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]
    offset: int


class TokenScorer:
    """Scores of the tokens of one answer, as they come. `text_of`: the text of tokens, special ones too."""

    def __init__(self, text_of: Callable[[list[int]], str]) -> None:
        self._text_of = text_of
        self._unfinished: list[int] = []
        self._offset = 0

    def score(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> tuple[TokenScore, ...]:
        """The scores of the next tokens; `logprobs` has one entry for each, None: there was no target."""
        views: Sequence[TokenLogprobs | None] = logprobs or (None,) * len(token_ids)
        return tuple(self._score(*pair) for pair in zip(token_ids, views, strict=True))

    def _score(self, token_id: int, view: TokenLogprobs | None) -> TokenScore:
        text = self._text(token_id)
        top = tuple((self._text(other), max(each, LOWEST)) for other, each in view.top) if view else ()
        score = TokenScore(text, max(view.logprob, LOWEST) if view else None, top, self._offset)
        self._offset += len(text)
        self._unfinished = [] if text else [*self._unfinished, token_id][-MAX_UNFINISHED_TOKENS:]
        return score

    def _text(self, token_id: int) -> str:
        """The text that `token_id` adds after the tokens so far: none while a character is unfinished."""
        text = self._text_of([token_id])
        if REPLACEMENT in text:
            text = self._text_of([*self._unfinished, token_id])
            return "" if text.endswith(REPLACEMENT) else text
        return text
