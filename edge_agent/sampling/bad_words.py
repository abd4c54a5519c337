"""Drafts that keep clear of texts which must not be generated: a mask over the tokens that would finish one.

The tokens of a word are found as vLLM finds them (`SamplingParams.update_from_tokenizer`, 0.32), and looked
for among the generated tokens only, as it does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BadWordMask", "bad_word_tokens"]

TokenIds = tuple[int, ...]


def bad_word_tokens(words: Iterable[str], encode: Callable[[str], Sequence[int]]) -> list[TokenIds]:
    """Each word's tokens at the start of a text, and after a blank where that gives another word's token.

    `encode` gives a text's token ids without special tokens.
    """
    found: list[TokenIds] = []
    for word in words:
        bare, blank = (tuple(encode(prefix + word.lstrip())) for prefix in ("", " "))
        if bare:
            found.append(bare)
            if len(blank) == len(bare) and blank[0] != bare[0]:
                found.append(blank)
    return found


class BadWordMask:
    """A `TokenMask`. The sequence begins with `prompt_length` tokens of prompt: no word reaches into them."""

    def __init__(self, words: Iterable[TokenIds], prompt_length: int) -> None:
        self._prompt_length = prompt_length
        single: set[int] = set()
        self._by_last_but_one: dict[int, list[TokenIds]] = defaultdict(list)
        for word in words:
            if len(word) == 1:
                single.add(word[0])
            else:
                self._by_last_but_one[word[-2]].append(word)
        self._single = np.array(sorted(single), dtype=np.int64)

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        scores[self._single[self._single < scores.size]] = -np.inf
        if len(tokens) <= self._prompt_length:
            return
        for *beginning, last in self._by_last_but_one.get(tokens[-1], ()):
            start = len(tokens) - len(beginning)
            if start >= self._prompt_length and last < scores.size and list(tokens[start:]) == beginning:
                scores[last] = -np.inf

    def rewind(self, length: int) -> None:
        """Nothing is remembered of what came before."""
