"""Frames of every kind."""

import pytest

from benchmarks.exactness.drafts import KINDS, DraftMaker
from pipesd_vllm.protocol import Draft, decode_upstream, encode

TRUTH = list(range(50, 80))
PROMPT_LENGTH = 6
DONE = 4
FRONTIER = PROMPT_LENGTH + DONE


def made(kind: str, length: int = 6) -> list[Draft]:
    return DraftMaker(1, PROMPT_LENGTH, TRUTH).frames(kind, length, DONE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [0, DONE, len(TRUTH)])
def test_every_kind_is_in_the_protocol(kind: str, done: int) -> None:
    """A server may find a frame useless, but never malformed, not even at the ends of a text."""
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    for length in (1, 2, 12):
        for frame in maker.frames(kind, length, done):
            assert decode_upstream(encode(frame)) == frame


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("duplicate", "reused_ids")])
def test_node_ids_are_fresh(kind: str) -> None:
    """No two frames share an id."""
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    frames = [frame for _ in range(5) for frame in maker.frames(kind, 4, DONE)]
    used = [frame.first + i for frame in frames for i in range(len(frame.tokens))]
    assert len(set(used)) == len(used)


def test_ids_given_out_of_turn_are_not_fresh_any_more() -> None:
    """After a frame under reused ids the next one can be told from it, and is not dropped."""
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    [reused] = maker.frames("reused_ids", 5, DONE)
    [fresh] = maker.frames("right", 5, DONE)
    assert reused.first == 1
    assert fresh.first == 6


def test_right_and_wrong() -> None:
    """Right drafts follow the truth from the frontier on, wrong ones never, half ones up to the middle."""
    [right], [wrong], [half] = made("right"), made("wrong"), made("half")
    assert (right.base, right.anchor, right.tokens) == (FRONTIER, 0, TRUTH[DONE : DONE + 6])
    assert not any(a == b for a, b in zip(wrong.tokens, right.tokens, strict=True))
    assert half.tokens[:3] == right.tokens[:3]
    assert half.tokens[3:] != right.tokens[3:]


def test_disorder() -> None:
    """Late, early and exchanged frames do not start where the text ends; a duplicate is the frame before."""
    assert [made(kind)[0].base - FRONTIER for kind in ("stale", "ahead", "shuffled")] == [-3, 2, 1]
    tail, head = made("shuffled")
    assert tail.anchor == head.first
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    assert maker.frames("wrong", 3, DONE) == maker.frames("duplicate", 5, DONE + 1)
    assert made("foreign_turn")[0].turn == 2
