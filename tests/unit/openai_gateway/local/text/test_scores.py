from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edge_agent.api import TokenizerBundle
from openai_gateway.local import TargetText
from openai_gateway.local.text.scores import LOWEST, TokenScore, TokenScorer
from pipesd_vllm.wire import TokenLogprobs

TEXT = "naïve 日本 🙂, ok"


def scored(bundle: TokenizerBundle, token_ids: Sequence[int]) -> list[TokenScore]:
    """The scores when the tokens come one by one."""
    scorer = TokenScorer(TargetText(bundle).text_of)
    return [scorer.score([each], [TokenLogprobs(-1.0, 1)])[0] for each in token_ids]


def test_texts_make_up_the_answer(bundle: TokenizerBundle, tokenizer: Tokenizer) -> None:
    """The tokens' texts, joined, are the text; a character of many tokens is the text of its last."""
    scores = scored(bundle, tokenizer.encode(TEXT).ids)
    assert "".join(score.text for score in scores) == TEXT
    assert " 🙂" in {score.text for score in scores}
    assert scores[0].offset == 0
    assert all(after.offset == before.offset + len(before.text) for before, after in pairwise(scores))


def test_alternatives_of_an_unfinished_character(bundle: TokenizerBundle, tokenizer: Tokenizer) -> None:
    """An alternative that would finish the character has it as its text, one that would not has none."""
    *first, last = tokenizer.encode("日").ids
    assert first
    scorer = TokenScorer(TargetText(bundle).text_of)
    scorer.score(first, [TokenLogprobs(-1.0, 1)] * len(first))
    [ok] = tokenizer.encode("x").ids
    view = TokenLogprobs(-3.0, 3, [(last, -0.5), (ok, -1.0), (first[0], float("-inf"))])
    [score] = scorer.score([last], [view])
    assert (score.text, score.logprob) == ("日", -3.0)
    assert score.top == (("日", -0.5), ("x", -1.0), ("", LOWEST))


def test_without_a_target(bundle: TokenizerBundle, tokenizer: Tokenizer) -> None:
    """Tokens that no target has seen have a text and no number."""
    token_ids = tokenizer.encode("ok").ids
    scores = TokenScorer(TargetText(bundle).text_of).score(token_ids, None)
    assert "".join(score.text for score in scores) == "ok"
    assert {(score.logprob, score.top) for score in scores} == {(None, ())}


def test_special_tokens_have_a_text(bundle: TokenizerBundle) -> None:
    """The token that ends a turn is reported by its name, as vLLM does."""
    assert [score.text for score in scored(bundle, [2])] == ["<|im_end|>"]


@pytest.mark.parametrize("nested", [False, True])
def test_spaces_that_decoding_drops(bundle: TokenizerBundle, nested: bool) -> None:
    """Where decoding drops the first space, single tokens keep theirs."""
    words = {"▁the": 0, "▁fox": 1, "es": 2, "▁▁": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="es"))
    metaspace = pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([metaspace]) if nested else metaspace
    tokenizer.decoder = decoders.Metaspace()
    text = TargetText(replace(bundle, tokenizer_json=tokenizer.to_str()))
    assert [text.text_of([each]) for each in range(4)] == [" the", " fox", "es", "  "]
    assert text.text_of([]) == ""
    no_steps = msgspec.json.decode(tokenizer.to_str()) | {"pre_tokenizer": None}
    text = TargetText(replace(bundle, tokenizer_json=msgspec.json.encode(no_steps).decode()))
    assert text.text_of([2]) == "es"
