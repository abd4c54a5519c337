"""Drafts laid beside the committed stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.api import Source
from edge_agent.control import ChainView, CheckedDraft
from edge_agent.errors import CloudMisbehaved
from edge_agent.sampling import DraftToken
from edge_agent.session.chain import DraftChain
from pipesd_vllm.wire import Commit, TokenLogprobs


def chain_with(*drafts: int) -> DraftChain:
    chain = DraftChain([1, 2, 3], vocab_size=100)
    for offset, token in enumerate(drafts):
        assert chain.append(3 + offset, DraftToken(token, 0.9))
    return chain


def test_frames_continue_each_other() -> None:
    """The second frame hangs from the last node of the first."""
    chain = chain_with(10, 11)
    first = chain.take_unsent(1, verify=True)
    assert first is not None
    assert (first.first, first.base, first.anchor, first.tokens) == (1, 3, 0, [10, 11])
    chain.append(5, DraftToken(12, 0.9))
    second = chain.take_unsent(1, verify=True)
    assert second is not None
    assert (second.first, second.base, second.anchor, second.tokens) == (3, 5, 2, [12])
    assert chain.take_unsent(1, verify=False) is None


def test_frames_tell_how_likely_their_drafts_are_right() -> None:
    """A byte each, by whoever estimates it."""
    chain = chain_with(10, 11)
    frame = chain.take_unsent(1, verify=True, confidence=lambda draft: draft.probability - 0.1)
    assert frame is not None
    assert frame.confidences == bytes([204, 204])


def test_the_flag_can_be_sent_alone() -> None:
    """When the server has every draft, asking for verification repeats the last node."""
    chain = chain_with(10, 11)
    chain.take_unsent(1, verify=False)
    repeated = chain.take_unsent(1, verify=True)
    assert repeated is not None
    assert (repeated.first, repeated.base, repeated.anchor, repeated.tokens) == (2, 4, 1, [11])
    assert chain.num_sent == 2


def test_accepted_drafts_stay_and_the_rest_continues() -> None:
    """Committed drafts leave the chain; what was drafted after them is still good."""
    chain = chain_with(10, 11, 12)
    chain.take_unsent(1, verify=True)
    done = chain.apply(Commit(1, 3, [10, 11]))
    assert (done.new_tokens, done.rejected, done.num_discarded) == ((10, 11), False, 0)
    assert (chain.frontier, chain.num_drafted, chain.num_sent) == (5, 1, 1)


def test_a_contradicted_draft_voids_what_follows() -> None:
    """After the first wrong draft nothing of the chain is left."""
    chain = chain_with(10, 11, 12)
    done = chain.apply(Commit(1, 3, [10, 99]))
    assert (done.rejected, done.num_discarded, chain.num_drafted) == (True, 2, 0)
    frame = chain_after(chain, 13)
    assert (frame.base, frame.anchor) == (5, 0)


def chain_after(chain: DraftChain, token: int):
    chain.append(chain.frontier, DraftToken(token, 0.9))
    frame = chain.take_unsent(1, verify=False)
    assert frame is not None
    return frame


def test_replayed_commits_are_recognised() -> None:
    """A frame that overlaps what is known adds only what is new."""
    chain = chain_with()
    chain.apply(Commit(1, 3, [10, 11]))
    assert chain.apply(Commit(1, 3, [10, 11, 12])).new_tokens == (12,)
    assert chain.apply(Commit(1, 3, [10])).new_tokens == ()


@pytest.mark.parametrize(
    ("base", "tokens"),
    [(5, [1]), (3, [100]), (3, [-1]), (2, [99, 4])],
    ids=["gap", "unknown id", "negative id", "contradiction"],
)
def test_impossible_commits_are_refused(base: int, tokens: list[int]) -> None:
    """What no honest server would send raises and changes nothing."""
    chain = chain_with(10)
    with pytest.raises(CloudMisbehaved):
        chain.apply(Commit(1, base, tokens))
    assert (chain.frontier, chain.num_drafted) == (3, 1)


def test_drafts_out_of_place_are_not_taken() -> None:
    """Only the next position continues the chain."""
    chain = chain_with(10)
    assert not chain.append(3, DraftToken(11, 0.5))
    assert not chain.append(5, DraftToken(11, 0.5))


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), max_size=8), st.data())
def test_the_text_is_the_committed_stream_whatever_was_drafted(commits, data) -> None:
    """Any drafts, any commits: the tokens are the prompt and the commits, each position once."""
    chain = chain_with()
    expected = [1, 2, 3]
    for tokens in commits:
        for draft in data.draw(st.lists(st.integers(0, 99), max_size=4)):
            chain.append(chain.frontier + chain.num_drafted, DraftToken(draft, 0.5))
        if data.draw(st.booleans()):
            chain.take_unsent(1, verify=True)
        overlap = data.draw(st.integers(0, min(3, len(expected) - 3)))
        chain.apply(Commit(1, len(expected) - overlap, expected[len(expected) - overlap :] + tokens))
        expected += tokens
        assert chain.tokens == expected
        assert 0 <= chain.num_sent <= chain.num_drafted


def test_every_committed_position_checks_its_draft() -> None:
    """Drafts are checked once, in order, up to the first wrong one; what lies beyond it is not."""
    chain = chain_with(10, 11, 12, 13)
    assert chain.apply(Commit(1, 3, [10])).checked_drafts == (CheckedDraft(0.9, True),)
    checked = chain.apply(Commit(1, 3, [10, 11, 99, 5])).checked_drafts
    assert checked == (CheckedDraft(0.9, True), CheckedDraft(0.9, False))
    assert chain.apply(Commit(1, 7, [6])).checked_drafts == ()


def test_logprobs_go_with_the_tokens_that_are_new() -> None:
    """Of a replayed commit only the part that was not known before is passed on."""
    views = [TokenLogprobs(-0.5, 1), TokenLogprobs(-1.5, 2)]
    commit = Commit(1, 3, [10, 11], logprobs=views)
    assert chain_with().apply(commit).logprobs == tuple(views)
    chain = chain_with()
    assert chain.apply(Commit(1, 3, [10])).logprobs is None
    assert chain.apply(commit).logprobs == (views[1],)
    assert chain.apply(commit).logprobs == ()
    with pytest.raises(CloudMisbehaved, match="log-probabilities"):
        chain.apply(Commit(1, 5, [10], logprobs=views))
    assert chain.frontier == 5


def test_waiting_ends_with_the_commit_of_what_was_asked_for() -> None:
    """Or when that will not be answered: the drafts are void, or the turn begins anew."""
    chain = chain_with(10, 11, 12)
    chain.take_unsent(1, verify=False)
    assert not chain.awaits_commit
    chain.take_unsent(1, verify=True)
    assert chain.view() == ChainView(3, 0, awaiting_commit=True)
    chain.apply(Commit(1, 3, [10, 11]))
    assert chain.awaits_commit
    chain.apply(Commit(1, 5, [12]))
    assert not chain.awaits_commit
    for end in (chain.void, chain.restart, lambda: chain.apply(Commit(1, chain.frontier, [99]))):
        chain.append(chain.length, DraftToken(13, 0.9))
        chain.take_unsent(1, verify=True)
        assert chain.awaits_commit
        end()
        assert not chain.awaits_commit
        chain.void()


def test_tokens_say_whether_they_were_drafted() -> None:
    """A token counts as drafted only if the server had been sent that draft."""
    chain = chain_with(10)
    chain.take_unsent(1, verify=True)
    chain.append(4, DraftToken(11, 0.9))
    outcome = chain.apply(Commit(1, 3, [10, 11, 12], passes=2, accepted=1))
    assert outcome.sources == (Source.DRAFTED, Source.CORRECTED, Source.CORRECTED)


@pytest.mark.parametrize(
    ("passes", "accepted", "names"),
    [(1, 1, "dsc"), (1, 0, "ssc"), (2, 1, "dcc"), (3, 0, "ccc"), (0, 0, "ccc")],
)
def test_tokens_say_whether_the_server_drafted_them(passes: int, accepted: int, names: str) -> None:
    """What a pass yielded beyond the edge's drafts and its own token, the server's speculator had drafted."""
    chain = chain_with(10)
    if accepted:
        chain.take_unsent(1, verify=True)
    outcome = chain.apply(Commit(1, 3, [10, 11, 12], passes=passes, accepted=accepted))
    sources = {"d": Source.DRAFTED, "s": Source.SERVER, "c": Source.CORRECTED}
    assert outcome.sources == tuple(sources[name] for name in names)


def test_tokens_say_whether_they_were_looked_up() -> None:
    """Such drafts are none of the model's, by which its confidence is calibrated."""
    chain = chain_with(10)
    chain.append(4, DraftToken(11, 0.9, Source.LOOKED_UP))
    chain.append(5, DraftToken(12, 0.9))
    chain.take_unsent(1, verify=True)
    outcome = chain.apply(Commit(1, 3, [10, 11, 99], accepted=2))
    assert outcome.sources == (Source.DRAFTED, Source.LOOKED_UP, Source.CORRECTED)
    assert [draft.accepted for draft in outcome.checked_drafts] == [True, False]
