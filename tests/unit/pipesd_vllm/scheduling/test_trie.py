"""The draft trie against a naive model that remembers every path ever sent."""

import copy
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pipesd_vllm.scheduling.trie import MAX_NODES, DraftTrie

START = 7
TOKENS = st.integers(0, 2)
FRAMES = st.tuples(
    st.integers(-2, 4),  # base, relative to the frontier
    st.integers(0, 12),  # anchor id
    st.lists(TOKENS, min_size=1, max_size=4),
    st.booleans(),  # verify
)
ACTIONS = st.lists(st.one_of(FRAMES, st.lists(TOKENS, min_size=1, max_size=3)), max_size=12)


class NaiveTrie:
    """Paths are tuples of generated tokens from the turn's start; an id maps to its path."""

    def __init__(self) -> None:
        self.committed: tuple[int, ...] = ()
        self.paths: dict[int, tuple[int, ...]] = {}
        self.released: set[tuple[int, ...]] = set()

    def _fits(self, path: tuple[int, ...]) -> bool:
        length = min(len(path), len(self.committed))
        return path[:length] == self.committed[:length]

    def add(self, first: int, base: int, anchor: int, tokens: list[int]) -> None:
        depth = base - START
        if anchor:
            parent = self.paths.get(anchor)
            if parent is None or len(parent) != depth or not self._fits(parent):
                return
        elif 0 <= depth <= len(self.committed):
            parent = self.committed[:depth]
        else:
            return
        for index, token in enumerate(tokens):
            parent = (*parent, token)
            if not self._fits(parent):
                return
            self.paths[first + index] = parent

    def commit(self, tokens: list[int]) -> None:
        self.committed += tuple(tokens)

    def live(self) -> set[tuple[int, ...]]:
        longer = {path for path in self.paths.values() if len(path) > len(self.committed)}
        return {path for path in longer if self._fits(path)}


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_trie_holds_exactly_the_paths_that_can_still_come_true(actions: list) -> None:
    """After any frames and commits, walking the trie finds the naive model's live paths and no other."""
    trie, model, next_id = DraftTrie(START), NaiveTrie(), 1
    for action in actions:
        if isinstance(action, list):
            trie.commit(action)
            model.commit(action)
            continue
        offset, anchor, tokens, verify = action
        base = max(0, trie.frontier + offset)
        trie.add(next_id, base, anchor, tokens)
        model.add(next_id, base, anchor, tokens)
        next_id += len(tokens)
        if verify:
            trie.release()
            model.released |= model.live()
        assert trie.frontier == START + len(model.committed)
        _check(trie, model)


def chain_of(trie: DraftTrie, limit: int) -> list[int]:
    """The tokens of the best chain."""
    return [node.token for node in trie.best_chain(limit)]


def test_drafts_keep_the_confidence_that_came_with_them() -> None:
    """None where the edge says nothing."""
    trie = DraftTrie(START)
    trie.add(1, START, 0, [5, 6], confidences=bytes([200, 7]))
    trie.add(3, START + 2, 2, [8])
    assert [node.confidence for node in trie.best_chain(8)] == [200, 7, None]


def _check(trie: DraftTrie, model: NaiveTrie) -> None:
    chain = tuple(chain_of(trie, 100))
    live = model.live()
    assert not chain or model.committed + chain in live
    assert trie.has_released() == bool(live & model.released)
    for path in live:
        walked = copy.deepcopy(trie)
        last = path[len(model.committed) : -1]
        walked.commit(last)
        assert path[-1] in walked._root.children


def test_first_child_is_the_one_offered() -> None:
    """Of two alternatives the one sent first is verified first."""
    trie = DraftTrie(START)
    trie.add(1, START, 0, [5, 6, 9], [-1, 0, -1])
    assert chain_of(trie, 8) == [5, 6]
    trie.commit([9])
    assert chain_of(trie, 8) == []


def test_unreleased_drafts_wait_for_the_flag() -> None:
    """Drafts without the verify flag are kept but do not ask for a pass."""
    trie = DraftTrie(START)
    trie.add(1, START, 0, [5, 6])
    assert not trie.has_released()
    assert chain_of(trie, 8) == [5, 6]
    trie.release()
    trie.add(3, START + 2, 2, [7])
    trie.commit([5, 6])
    assert not trie.has_released()


def test_duplicate_frames_change_nothing() -> None:
    """The same frame twice leaves one chain; a reused id with another token is dropped."""
    trie = DraftTrie(START)
    assert trie.add(1, START, 0, [5, 6]) == 2
    assert trie.add(1, START, 0, [5, 6]) == 2
    assert trie.add(1, START, 0, [8]) == 0
    assert trie.num_live_ids == 2


def test_memory_is_bounded() -> None:
    """However many nodes an edge sends, no more than `MAX_NODES` ids are remembered."""
    trie = DraftTrie(START)
    for i in range(MAX_NODES // 100 + 20):
        trie.add(1 + 100 * i, START, 0, [i] * 100)
    assert trie.num_live_ids <= MAX_NODES


def test_a_long_chain_one_bonus_token_behind_is_kept() -> None:
    """Every frame hangs from a node that the pass before went two tokens past, through 12,000 tokens."""
    trie = DraftTrie(START)
    trie.add(1, START, 0, [1] * 4)
    for sent in range(4, 12_000, 4):
        trie.commit([*chain_of(trie, 8), 1])
        assert trie.add(1 + sent, START + sent, sent, [1] * 4) == 3
        assert trie.num_live_ids <= MAX_NODES


def test_a_long_chain_with_rejections_is_kept() -> None:
    """With 3 % of the drafts wrong, each frame on a right chain fits, and each made after a rejection."""
    rng, right, wrong = random.Random(1), 1, 2
    trie, next_id, base, num_rejected = DraftTrie(START), 1, START, 0

    def send(base: int, anchor: int) -> tuple[bool, int]:
        """A frame of four: whether its first draft is right, and how many can still come true."""
        nonlocal next_id
        tokens = [wrong if rng.random() < 0.03 else right for _ in range(4)]
        next_id += 4
        return tokens[0] == right, trie.add(next_id - 4, base, anchor, tokens)

    send(base, 0)
    while base < START + 12_000:
        chain = chain_of(trie, 8)
        kept = [*chain, wrong].index(wrong)
        trie.commit([right] * (kept + 1))
        base += 4
        fits, num_live = send(base, next_id - 1)
        assert num_live == (3 if fits and kept == len(chain) else 0)
        if num_live == 0:
            num_rejected += 1
            base = trie.frontier
            assert send(base, 0)[1] == 4
    assert num_rejected > 100


def test_malformed_parents_never_raise() -> None:
    """Parents out of range only lose the nodes they belong to."""
    trie = DraftTrie(START)
    assert trie.add(1, START, 0, [5, 6, 7], [-1, 99]) == 1


# -- chains that the target parted from ----------------------------------------------------


def parted(chain: list[int], committed: list[int]) -> list[int]:
    """What is offered once `committed` has been chosen in place of `chain`."""
    trie = DraftTrie(START)
    trie.add(1, START, 0, chain)
    trie.release()
    trie.commit(committed)
    assert not trie.best_chain(99)
    assert not trie.has_released()
    return [node.token for node in trie.offered(99)]


def test_an_edited_copy_is_taken_up_where_it_comes_back() -> None:
    """After a token put in another's place (guessed, a few drafts long), others left out, some put in."""
    original = list(range(20, 40))
    assert parted(original, [20, 21, 90]) == [23, 24, 25]
    assert parted(original, [20, 21, 90, 23]) == list(range(24, 40))
    assert parted(original, [20, 21, 25]) == list(range(26, 40))
    assert parted(original, [20, 21, 90, 91, 22]) == list(range(23, 40))
    assert parted(original, [20, 21, *range(90, 110)]) == []


def test_what_is_taken_up_again_moves_with_the_text_and_gives_way_to_drafts() -> None:
    trie = DraftTrie(START)
    trie.add(1, START, 0, [1, 2, 3, 4, 5, 6, 7])
    trie.commit([1, 9, 3])
    assert [node.token for node in trie.offered(2)] == [4, 5]
    trie.commit([4, 5])
    assert [node.token for node in trie.offered(9)] == [6, 7]
    trie.add(8, trie.frontier, 0, [50])
    assert [node.token for node in trie.offered(9)] == [50]
    trie.commit([50])
    assert trie.offered(9) == []
