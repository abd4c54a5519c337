from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edge_agent.api import FinishReason
from edge_agent.testing import Script
from openai_gateway.local.text.detokenizer import Detokenizer
from openai_gateway.local.text.transcript import Piece, StopScanner, Transcript

END = 2


def transcript_for(tokenizer: Tokenizer, stops: list[str]) -> Transcript:
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    return Transcript(detokenizer, StopScanner(stops), {END})


def ids_of(tokenizer: Tokenizer, symbols: str) -> tuple[int, ...]:
    vocabulary = tokenizer.get_vocab()
    return tuple(vocabulary[symbol] for symbol in symbols)


def play(
    tokenizer: Tokenizer,
    token_ids: tuple[int, ...],
    stops: list[str],
    chunk_tokens: int,
    reason: FinishReason,
) -> tuple[str, FinishReason | None, int]:
    transcript = transcript_for(tokenizer, stops)
    text = ""
    for start in range(0, len(token_ids), chunk_tokens):
        is_last = start + chunk_tokens >= len(token_ids)
        piece = transcript.push(token_ids[start : start + chunk_tokens], reason if is_last else None)
        text += piece.text
        if piece.finish_reason is not None:
            return text, piece.finish_reason, transcript.num_tokens
    return text, None, transcript.num_tokens


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(chunk_tokens=st.integers(1, 40), stops=st.lists(st.text("wor🙂 ", min_size=1, max_size=4), max_size=2))
def test_text_and_count_do_not_depend_on_chunks(
    tokenizer: Tokenizer, script_for: Callable[..., Script], chunk_tokens: int, stops: list[str]
) -> None:
    """Text, finish reason and token count are the same however the tokens arrive."""
    token_ids = script_for("hello world 🙂🙂 and more words").token_ids
    whole = play(tokenizer, token_ids, stops, len(token_ids), FinishReason.STOP)
    assert play(tokenizer, token_ids, stops, chunk_tokens, FinishReason.STOP) == whole


def test_no_stop_string_within_the_least_length(tokenizer: Tokenizer) -> None:
    """A stop string ends nothing until it ends behind the first `min_tokens` tokens."""
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    transcript = Transcript(detokenizer, StopScanner(["bb"]), min_tokens=3)
    piece = transcript.push(ids_of(tokenizer, "abbbc"), None)
    assert (piece.text, piece.finish_reason, transcript.num_tokens) == ("ab", FinishReason.STOP, 4)


def test_end_token_counts_but_has_no_text(tokenizer: Tokenizer, script_for: Callable[..., Script]) -> None:
    """The token that ends a generation is counted, as vLLM does, and not shown, special or not."""
    token_ids = script_for("hello").token_ids
    assert play(tokenizer, token_ids, [], 1, FinishReason.STOP) == (
        "hello",
        FinishReason.STOP,
        len(token_ids),
    )


def test_stop_string_ends_the_count_at_its_last_token(tokenizer: Tokenizer) -> None:
    """Tokens after the one that completes the stop string are not counted."""
    token_ids = ids_of(tokenizer, "abcdef")
    assert play(tokenizer, token_ids, ["cd"], 6, FinishReason.LENGTH) == ("ab", FinishReason.STOP, 4)


def test_cut_by_length_shows_what_was_held_back(tokenizer: Tokenizer) -> None:
    """When the answer is cut, an unfinished character and a begun stop string are shown."""
    token_ids = ids_of(tokenizer, "acð")
    assert play(tokenizer, token_ids, ["cd"], 1, FinishReason.LENGTH) == ("ac\ufffd", FinishReason.LENGTH, 3)


def test_last_chunk_may_be_empty(tokenizer: Tokenizer) -> None:
    """A finish reason without tokens ends the text and counts nothing."""
    transcript = transcript_for(tokenizer, [])
    assert transcript.push((), FinishReason.LENGTH) == Piece("", FinishReason.LENGTH)
    assert transcript.num_tokens == 0
