"""Lookup drafts: what followed the text's last tokens where they stood before."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from edge_agent.drafting.lookup import (
    BETWEEN_TEXTS,
    MAX_MATCH,
    MAX_RUN,
    MIN_MATCH,
    Library,
    LookupRates,
    LookupSource,
    SortedIndex,
)
from pipesd_vllm.wire import common_prefix_length


class FirstRates(LookupRates):
    """Learns nothing."""

    def observe(self, length: int, *, right: bool) -> None:
        pass


def source(text: Sequence[int]) -> LookupSource:
    return LookupSource(text, LookupRates())


def proposed(lookup: LookupSource, most: int = MAX_RUN) -> list[int]:
    return [draft.token_id for draft in lookup.propose(most)]


def library(*texts: Sequence[int]) -> Library:
    tokens = [token for text in texts for token in (*text, BETWEEN_TEXTS)]
    return Library(SortedIndex(np.array(tokens, dtype=np.int32)), LookupRates())


@pytest.mark.parametrize("text", [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 1, 2], [7, 8, 9, 1, 8, 9]])
def test_nothing_is_proposed_without_a_match_of_three(text: list[int]) -> None:
    assert source(text).propose() == []


def test_what_followed_the_match_is_proposed_and_copied_past_the_end() -> None:
    """As LZ77 copies: the text after the match, then what was copied, over and over."""
    period = [1, 2, 3, 4, 5]
    assert proposed(source([*period * 3, 1, 2, 3]), 12) == [4, 5, *period, *period]


def test_longer_matches_promise_more_and_run_further() -> None:
    head = [*range(100)]
    short, long = source([*head, 500, 10, 11, 12]), source([*head, *range(10, 30)])
    assert [short.propose()[0].probability, long.propose()[0].probability] == [0.71, 0.97]
    assert 3 < len(short.propose()) < len(long.propose()) <= MAX_RUN
    assert len(short.propose(survival=0.5)) < len(short.propose())
    probabilities = [draft.probability for draft in short.propose()]
    assert probabilities == sorted(probabilities), "each token that is right makes the match longer"


def test_of_several_longest_matches_the_most_frequent_continuation_wins_then_the_newest() -> None:
    match = [1, 2, 3]
    text = [10, *match, 50, 11, *match, 60, 12, *match, 50, 13, *match, 70, 14, *match]
    assert proposed(source(text), 1) == [50]
    assert proposed(source([10, *match, 50, 11, *match, 60, 12, *match]), 1) == [60]


def test_a_longer_match_wins_over_more_frequent_ones() -> None:
    text = [9, 1, 2, 3, 50, 8, 1, 2, 3, 60, 8, 1, 2, 3, 60, 9, 1, 2, 3]
    assert proposed(source(text), 1) == [50]


def test_drafts_of_any_source_are_part_of_the_text_until_they_are_void() -> None:
    lookup = source([1, 2, 3, 4, 5, 6, 7, 8])
    assert lookup.propose() == []
    lookup.extend([2, 3, 4])
    assert proposed(lookup, 2) == [5, 6]
    lookup.extend([5, 6])
    assert proposed(lookup, 2) == [7, 8]
    lookup.follow([2, 3, 9])
    assert lookup.propose() == []
    lookup.follow([8, 2, 3])
    assert proposed(lookup, 1) == [9]


def test_commits_are_followed_as_if_the_text_had_begun_with_them() -> None:
    """However drafts and commits come, proposals are those of a source that starts from the whole text."""
    rng = random.Random(3)
    text = [rng.randrange(4) for _ in range(40)]
    lookup = LookupSource(text, FirstRates())
    for _ in range(300):
        run = [draft.token_id for draft in lookup.propose(rng.randrange(8))]
        lookup.extend([token if rng.random() < 0.9 else rng.randrange(4) for token in run])
        commit = [rng.randrange(4) for _ in range(rng.randrange(4))]
        lookup.follow(commit)
        text += commit
        lookup.void()
        length = longest_match(text)
        found = lookup.propose(1)
        if length > MIN_MATCH:
            assert found
            assert follows_a_match(text, length, found[0].token_id)


def longest_match(text: Sequence[int]) -> int:
    """Of the text's end with any earlier place, in tokens, up to `MAX_MATCH`."""

    def matched(end: int) -> int:
        return common_prefix_length(text[:end][::-1][:MAX_MATCH], text[::-1])

    return max(matched(end) for end in range(1, len(text)))


def follows_a_match(text: Sequence[int], length: int, token: int) -> bool:
    ends = range(length, len(text))
    return any(text[end] == token and text[end - length : end] == text[-length:] for end in ends)


def test_an_edited_copy_is_taken_up_again_before_three_tokens_agree() -> None:
    """A token replaced, some left out, one put in: after the next token that is the original's."""
    original = [*range(10, 40)]
    copied = original[:12]
    for edited, expected in [
        ([*copied, 500, original[13]], original[14]),
        ([*copied, original[15]], original[16]),
        ([*copied, 500, original[12]], original[13]),
        ([*copied, 500, 501, original[14]], original[15]),
    ]:
        assert proposed(source([*original, 99, *edited]), 1) == []
        lookup = source([*original, 99])
        lookup.follow(edited)
        assert proposed(lookup, 1) == [expected]
    lookup.follow(range(600, 610))
    assert proposed(lookup, 1) == []


def test_rates_are_learnt() -> None:
    """A text whose trigrams never go on as they did: after some time hardly anything is expected of them."""
    rates = LookupRates()
    lookup = LookupSource([1, 2, 3], rates)
    for other in range(10, 210):
        lookup.follow([other, 1, 2, 3])
    assert rates.rate(3) < 0.2
    assert rates.rate(16) == 0.97
    assert lookup.propose() == [], "not even one token is likely enough"


def test_a_library_is_used_where_it_is_likelier_and_ends_with_its_text() -> None:
    lookup = LookupSource([5, 6, 7], LookupRates(), [library([1, 5, 6, 7, 8, 9], [5, 6, 2])])
    assert proposed(lookup) == [8, 9]
    lookup = LookupSource([1, 5, 6, 7, 30, 5, 6, 7], LookupRates(), [library([4, 30, 5, 6, 7, 8])])
    assert proposed(lookup, 1) == [8], "four tokens match there, three here"


def test_the_newest_text_of_a_library_wins_and_none_goes_on_into_the_next() -> None:
    books = library([1, 2, 3, 10], [1, 2, 3, 20], [7, 1, 2, 3])
    assert proposed(LookupSource([1, 2, 3], LookupRates(), [books])) == [20]


def test_an_empty_library_is_none() -> None:
    lookup = LookupSource([1, 2, 3, 4, 1, 2, 3], LookupRates(), [library()])
    assert proposed(lookup, 1) == [4]


@pytest.mark.parametrize("text", [[5] * 3000, [1, 2] * 1500, [*range(3000)]])
def test_degenerate_texts_cost_no_more(text: list[int]) -> None:
    """The places followed are bounded: the index is asked for a few of them a token, whatever the text."""
    lookup = source(text)
    lookup.follow(text)
    assert len(proposed(lookup)) <= MAX_RUN
