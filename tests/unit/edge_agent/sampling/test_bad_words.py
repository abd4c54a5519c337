"""Drafting around words that must not be generated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sampling.bad_words import BadWordMask, bad_word_tokens

PROMPT = [1, 2]
IDS = {"no": [5], " no": [6], "never ever": [7, 8], " never ever": [9, 8], "odd": [3], " odd": [2, 3]}


def forbidden(words: list[tuple[int, ...]], tokens: list[int], num_tokens: int = 12) -> set[int]:
    scores = np.zeros(num_tokens, dtype=np.float32)
    BadWordMask(words, len(PROMPT)).apply(scores, tokens)
    return set(np.flatnonzero(scores == -np.inf).tolist())


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("no", [(5,), (6,)]),
        (" no", [(5,), (6,)]),
        ("never ever", [(7, 8), (9, 8)]),
        ("odd", [(3,)]),  # after a blank it is more tokens: vLLM leaves that form alone
    ],
)
def test_a_word_is_barred_in_the_forms_that_vllm_bars(word: str, expected: list[tuple[int, ...]]) -> None:
    """At the start of a text and after a blank, if both have as many tokens and begin differently."""
    assert bad_word_tokens([word], IDS.__getitem__) == expected


def test_a_word_of_several_tokens_is_barred_only_where_it_would_end() -> None:
    """The last token is out after the others, and nowhere else."""
    words = [(5,), (7, 8), (3, 7, 9), (10, 11)]
    assert forbidden(words, [*PROMPT, 4]) == {5}
    assert forbidden(words, [*PROMPT, 7]) == {5, 8}
    assert forbidden(words, [*PROMPT, 3, 7]) == {5, 8, 9}


def test_a_word_does_not_reach_into_the_prompt() -> None:
    """As on the server, the prompt's tokens do not begin a word."""
    assert forbidden([(2, 9), (1, 2, 8)], PROMPT) == set()
    assert forbidden([(2, 7, 9)], [*PROMPT, 7]) == set()


def test_tokens_that_the_draft_does_not_have_are_left_out() -> None:
    """A target may have more tokens than its draft."""
    assert forbidden([(50,), (4, 60)], [*PROMPT, 4]) == set()


@given(
    words=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), max_size=8),
    generated=st.lists(st.integers(0, 5), max_size=6),
)
def test_exactly_the_tokens_that_would_finish_a_word_are_out(
    words: list[tuple[int, ...]], generated: list[int]
) -> None:
    """Whatever the words: a token is out if and only if the generated text would then end with one."""
    expected = {
        token for token in range(6) for word in words if tuple([*generated, token][-len(word) :]) == word
    }
    assert forbidden(words, [*PROMPT, *generated], 6) == expected
