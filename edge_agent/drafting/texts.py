"""Texts as ids of the target's vocabulary, as an index takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_agent.drafting.lookup import BETWEEN_TEXTS

__all__ = ["Tokens", "encoder", "joined"]

Tokens: TypeAlias = NDArray[np.int32]


def encoder(tokenizer_json: str) -> Callable[[str], Tokens]:
    """Gives a text's ids, without those that a tokenizer puts around it; raises what its library does."""
    from tokenizers import Tokenizer  # takes long to import

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)


def joined(texts: Sequence[Tokens]) -> Tokens:
    """All of `texts`, each with its end, for a `SortedIndex`."""
    end = np.array([BETWEEN_TEXTS], dtype=np.int32)
    return np.concatenate([part for text in texts for part in (text, end)])
