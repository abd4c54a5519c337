from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from openai_gateway.local.text.detokenizer import Detokenizer

SPECIAL_IDS = frozenset({0, 1, 2})
# The tokenizer fixture is read only, so hypothesis may share it between examples.
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
any_ids = st.lists(st.integers(0, 320), max_size=30)
FOX = "ðŁ¦Ĭ"
"""The UTF-8 bytes of a fox emoji (F0 9F A6 8A) in the byte-level alphabet."""
TEXTS = [
    "plain ascii",
    "日本語のテキスト、漢字とかな",
    "family 👨‍👩‍👧‍👦 flag 🇩🇪 thumbs 👍🏽 heart ❤️",
    "combining: e\u0301 n\u0303 \u0e01\u0e33 \u0928\u093f",
    "العربية עברית",
    "a literal \ufffd in the text",
]


def for_tokenizer(tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> Detokenizer:
    return Detokenizer(lambda ids: tokenizer.decode(ids, skip_special_tokens=False), SPECIAL_IDS, prompt)


def byte_ids_of(tokenizer: Tokenizer, symbols: str) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[symbol] for symbol in symbols]


def pieces_of(detokenizer: Detokenizer, chunks: Sequence[Sequence[int]]) -> list[str]:
    return [*(detokenizer.push(chunk) for chunk in chunks), detokenizer.flush()]


@shared_fixture
@given(ids=any_ids)
def test_pieces_of_random_tokens_make_the_whole(tokenizer: Tokenizer, ids: list[int]) -> None:
    """For any token ids, broken characters included, the pieces add up to decoding all at once."""
    pieces = pieces_of(for_tokenizer(tokenizer), [[token_id] for token_id in ids])
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@shared_fixture
@given(chunks=st.lists(st.lists(st.integers(0, 320), max_size=6), max_size=8))
def test_chunking_does_not_matter(tokenizer: Tokenizer, chunks: list[list[int]]) -> None:
    """Tokens pushed several at a time give the same text as one at a time."""
    pieces = pieces_of(for_tokenizer(tokenizer), chunks)
    assert "".join(pieces) == tokenizer.decode(list(chain(*chunks)), skip_special_tokens=True)


@shared_fixture
@given(text=st.one_of(st.sampled_from(TEXTS), st.text(max_size=30)))
def test_real_text_never_shows_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    """Valid text comes back exactly, and no piece has a replacement character of its own making."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = pieces_of(for_tokenizer(tokenizer), [[token_id] for token_id in ids])
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces) == expected
    assert "".join(pieces).count("\ufffd") == expected.count("\ufffd")


def test_emoji_is_shown_when_its_last_byte_comes(tokenizer: Tokenizer) -> None:
    """The bytes of an emoji show nothing until the last, which shows the whole emoji."""
    byte_ids = byte_ids_of(tokenizer, FOX)
    detokenizer = for_tokenizer(tokenizer)
    assert [detokenizer.push([byte_id]) for byte_id in byte_ids] == ["", "", "", "🦊"]


def test_flush_shows_an_unfinished_character(tokenizer: Tokenizer) -> None:
    """A generation cut inside a character ends in one replacement character, as decoding all would."""
    detokenizer = for_tokenizer(tokenizer)
    assert detokenizer.push(byte_ids_of(tokenizer, "ð")) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    """Special tokens are skipped and do not disturb the characters around them."""
    hello = tokenizer.encode("hello", add_special_tokens=False).ids
    assert "".join(pieces_of(for_tokenizer(tokenizer), [[1, *hello], [2], [0, 0]])) == "hello"


def test_ids_outside_the_vocabulary_have_no_text(tokenizer: Tokenizer) -> None:
    """An id of the padded end of a model's vocabulary has no text and does no harm."""
    assert pieces_of(for_tokenizer(tokenizer), [[100_000]]) == ["", ""]


@pytest.fixture(scope="module")
def sentencepiece_like() -> Tokenizer:
    """A tokenizer whose decoder strips the first space and falls back to bytes, as Llama 2's."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "▁hello",
        "▁world",
        "<0xF0>",
        "<0x9F>",
        "<0x99>",
        "<0x82>",
        "<0x41>",
        "x",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def test_first_word_after_a_prompt_keeps_its_space(sentencepiece_like: Tokenizer) -> None:
    """A decoder that strips the first space sees the prompt's end first, so the answer keeps its own."""
    assert for_tokenizer(sentencepiece_like, prompt=[3]).push([4]) == " world"
    assert for_tokenizer(sentencepiece_like).push([4]) == "world"


def test_byte_fallback_characters_are_whole(sentencepiece_like: Tokenizer) -> None:
    """Characters spelled in byte tokens appear whole, and the words after them with their space."""
    detokenizer = for_tokenizer(sentencepiece_like)
    assert [detokenizer.push([i]) for i in (3, 5, 6, 7, 8, 4)] == ["hello", "", "", "", "🙂", " world"]


def test_broken_bytes_after_shown_text_do_not_raise(sentencepiece_like: Tokenizer) -> None:
    """A decoder that takes back text already shown (good bytes, then a broken one) does no further harm."""
    detokenizer = for_tokenizer(sentencepiece_like)
    assert detokenizer.push([9]) == "A"
    assert "".join(pieces_of(detokenizer, [[5], [10]])).endswith("x")


def test_prompt_that_ends_inside_a_character(tokenizer: Tokenizer) -> None:
    """A prompt of token ids may end inside a character; the answer then starts with that character."""
    first, *rest = byte_ids_of(tokenizer, FOX)
    detokenizer = for_tokenizer(tokenizer, prompt=[first])
    assert "".join(detokenizer.push([byte_id]) for byte_id in rest) == "🦊"
