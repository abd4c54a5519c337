"""Drafting in a target's ids with a model of another vocabulary."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.api import Sampling
from edge_agent.drafting import DraftThread, TranslatingDrafter, VocabularyMap
from edge_agent.drafting.translation import spellings
from edge_agent.sampling import SampledPicker
from edge_agent.testing import FakeDrafter

TARGET = [*"abcdefgh", "ab", "cd", "abc", "def", "Ġa", "<|end|>"]
SHUFFLED = random.Random(4).sample(TARGET, len(TARGET))
SMALLER = [token for token in SHUFFLED if token not in ("abc", "def", "Ġa")]


def logits_after(spelled: Sequence[str]) -> dict[str, float]:
    """A model that goes by strings: the logit of each token after a text."""
    rng = random.Random("".join(spelled))
    return {token: rng.uniform(0, 8) for token in sorted({*TARGET, *SMALLER})}


def drafter_of(vocabulary: Sequence[str]) -> FakeDrafter:
    def logits(tokens: Sequence[int]) -> NDArray[np.float32]:
        by_string = logits_after([vocabulary[token] for token in tokens])
        return np.array([by_string[token] for token in vocabulary], dtype=np.float32)

    return FakeDrafter(logits, vocabulary)


def translating(vocabulary: Sequence[str]) -> tuple[TranslatingDrafter, FakeDrafter]:
    inner = drafter_of(vocabulary)
    outer = TranslatingDrafter(inner)
    outer.vocabulary_map = VocabularyMap(TARGET, vocabulary)
    return outer, inner


def picker(seed: int) -> SampledPicker:
    return SampledPicker(Sampling(99, temperature=0.9, seed=seed), 3)


@pytest.mark.parametrize("seed", range(5))
def test_other_ids_of_the_same_tokens_change_nothing(seed: int) -> None:
    """Greedy and drawn with the target's noise, through rewinds: what a native draft says, in its ids."""
    native, (other, _) = drafter_of(TARGET), translating(SHUFFLED)
    rng = random.Random(seed)
    for made in (None, picker):
        prompt = [rng.randrange(len(TARGET)) for _ in range(5)]
        mine = native.open(prompt, made and made(seed))
        theirs = other.open(prompt, made and made(seed))
        length = len(prompt)
        for _ in range(40):
            if rng.random() < 0.7:
                drafted = native.draft([mine])[mine]
                assert other.draft([theirs])[theirs] == drafted
                length += 1
            else:
                length = rng.randrange(len(prompt), length + 1)
                tokens = [rng.randrange(len(TARGET)) for _ in range(rng.randrange(1, 4))]
                native.rewrite(mine, length, tokens)
                other.rewrite(theirs, length, tokens)
                length += len(tokens)


def test_tokens_that_the_draft_lacks_are_spelled_for_it_and_never_drafted() -> None:
    """However the sequence is rewritten, the draft has read the target's text and nothing else."""
    other, inner = translating(SMALLER)
    rng = random.Random(7)
    tokens = [TARGET.index("abc"), TARGET.index("Ġa")]
    sequence = other.open(tokens)
    for _ in range(200):
        if rng.random() < 0.5:
            drafted = other.draft([sequence])[sequence].token_id
            assert TARGET[drafted] in SMALLER
            tokens.append(drafted)
        else:
            keep = rng.randrange(1, len(tokens) + 1)
            new = [rng.randrange(len(TARGET)) for _ in range(rng.randrange(3))]
            other.rewrite(sequence, keep, new)
            tokens = [*tokens[:keep], *new]
        read = "".join(SMALLER[token] for token in inner.tokens(sequence))
        assert read == "".join(TARGET[token] for token in tokens).replace("Ġ", "")


def test_without_a_map_it_is_the_drafter_itself() -> None:
    inner = drafter_of(TARGET)
    other = TranslatingDrafter(inner)
    sequence = other.open([1, 2])
    other.rewrite(sequence, 1, [3])
    drafted = other.draft([sequence])[sequence].token_id
    assert inner.tokens(sequence) == (1, 3, drafted)


def test_share_and_logits() -> None:
    made = VocabularyMap(TARGET, SMALLER)
    assert made.shared == (len(TARGET) - 3) / len(TARGET)
    logits = np.arange(len(SMALLER), dtype=np.float32)
    laid_out = made.logits(logits)
    assert [laid_out[TARGET.index(token)] for token in SMALLER] == logits.tolist()
    assert np.isneginf(laid_out[TARGET.index("abc")])
    assert made.spelled(TARGET.index("def")) == tuple(SMALLER.index(letter) for letter in "def")
    assert made.spelled(10**6) == (0,), "an id beyond the vocabulary is read as something"


def test_byte_level_and_sentence_piece_spell_alike() -> None:
    byte_level = ["Ġthe", "Ċ", "Ã©", "a", "Ġa"]
    sentence_piece = ["▁the", "<0x0A>", "é", "a", "▁a"]
    assert spellings(byte_level) == spellings(sentence_piece) == [b" the", b"\n", "é".encode(), b"a", b" a"]


async def test_a_worker_translates_sequences_that_begin_after_it_was_told() -> None:
    inner = drafter_of(SHUFFLED)
    worker = DraftThread(inner, time.monotonic)
    try:
        assert await worker.translate(TARGET) is not None
        handle = await worker.open([TARGET.index("a"), TARGET.index("def")], 2, lambda _: None)
        spelled = [SHUFFLED[token] for token in inner.tokens(0)]
        assert spelled == ["a", "def"]
        await worker.translate(None)
        other = await worker.open([1, 2], 2, lambda _: None)
        assert inner.tokens(1) == (1, 2)
        handle.close()
        other.close()
    finally:
        await worker.close()
