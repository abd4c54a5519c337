"""Token counts that follow a sequence through rewinds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.sampling.adjustment import TokenHistory

TOKEN = st.integers(0, 9)


@settings(deadline=None)
@given(
    st.lists(TOKEN, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 12), st.lists(TOKEN, max_size=6)), max_size=12),
)
def test_counts_are_those_of_the_sequence(prompt: list[int], changes: list[tuple[int, list[int]]]) -> None:
    """After any changes the counts are those of the generated tokens, as if counted anew."""
    history, tokens = TokenHistory(len(prompt), 10), list(prompt)
    history.follow(tokens)
    for keep, more in changes:
        length = min(len(prompt) + keep, len(tokens))
        tokens = tokens[:length] + more
        history.rewind(length)
        history.follow(tokens)
    ids, counts = history.generated()
    expected = np.bincount(tokens[len(prompt) :], minlength=10)
    assert ids.tolist() == np.flatnonzero(expected).tolist()
    assert counts.tolist() == expected[expected > 0].tolist()
    assert history.seen().tolist() == sorted(set(tokens))
