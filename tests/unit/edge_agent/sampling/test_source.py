"""Which picker a request gets."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_agent.api import GenerationRequest, Sampling, TokenizerBundle
from edge_agent.errors import CloudUnreachable
from edge_agent.sampling import GreedyPicker, Pickers, TokenPicker
from edge_agent.testing import fake_tokenizer_bundle
from pipesd_vllm.wire import Structure, StructureKind

LOGITS = np.arange(4, dtype=np.float32)


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest("r", (1, 2), Sampling(8, **fields))  # type: ignore[arg-type]


async def bundle() -> TokenizerBundle:
    return TokenizerBundle("{}", None, {}, (3,))


async def unreachable() -> TokenizerBundle:
    raise CloudUnreachable("no verifier answers here")


async def test_greedy_text_costs_what_it_always_did() -> None:
    """A request without parameters is drafted by the plain argmax."""
    assert isinstance(await Pickers().picker(request()), GreedyPicker)


async def test_the_target_s_own_end_tokens_are_barred_before_the_least_length() -> None:
    """`min_tokens` concerns tokens that only the target's tokenizer knows to be ends."""
    picker = await Pickers(bundle).picker(request(min_tokens=2))
    assert [picker.pick(LOGITS, tokens).token_id for tokens in ([1, 2], [1, 2, 2, 2])] == [2, 3]


@pytest.mark.parametrize("tokenizer", [None, unreachable])
async def test_without_a_tokenizer_drafting_goes_on(tokenizer: object) -> None:
    """Not knowing the end tokens costs drafts, not the request."""
    picker = await Pickers(tokenizer).picker(request(min_tokens=2))  # type: ignore[arg-type]
    assert picker.pick(LOGITS, [1, 2]).token_id == 3


async def test_bad_words_are_not_drafted() -> None:
    """Greedy or sampled, the pick goes round a word's tokens, which the target's tokenizer names."""
    texts = fake_tokenizer_bundle(["the fox", "a fox"])
    tokenizer = Tokenizer.from_str(texts.tokenizer_json)
    [word] = tokenizer.encode("x").ids
    logits = np.zeros(tokenizer.get_vocab_size(), dtype=np.float32)
    logits[[word, word + 1]] = 60.0, 50.0

    async def own() -> TokenizerBundle:
        return texts

    for fields in ({}, {"temperature": 1.0, "seed": 3}):
        assert (await Pickers(own).picker(request(**fields))).pick(logits, [1, 2]).token_id == word
        picker = await Pickers(own).picker(request(bad_words=["x"], **fields))
        assert picker.pick(logits, [1, 2]).token_id == word + 1


async def test_a_tokenizer_that_cannot_be_read_costs_drafts_only() -> None:
    """Without token ids bad words are left to the server."""
    picker = await Pickers(bundle).picker(request(bad_words=["x"]))
    assert picker.pick(LOGITS, [1, 2]).token_id == 3


def texts() -> TokenizerBundle:
    return fake_tokenizer_bundle(["the fox", "a fox"])


MARKS = ("<b>", "</b>")
FORM = Structure(StructureKind.REGEX, "(yes|no)")


@pytest.mark.parametrize(
    ("tokenizer", "fields", "ignored"),
    [
        (texts(), {"bad_words": ("x", "fox"), "structure": FORM}, ()),
        (texts(), {"bad_words": ("x", " ")}, ("bad_words",)),
        (texts(), {"structure": Structure(StructureKind.REGEX, "(unclosed")}, ("response_format",)),
        (
            TokenizerBundle("{}", None, {}, ()),
            {"bad_words": ("x",), "structure": FORM},
            ("bad_words", "response_format"),
        ),
    ],
    ids=["all kept", "no such word", "no such form", "tokenizer unreadable"],
)
async def test_what_a_picker_does_not_follow_is_named(
    tokenizer: TokenizerBundle, fields: dict[str, object], ignored: tuple[str, ...]
) -> None:
    """Nothing that nobody else enforces is dropped in silence."""
    assert (await Pickers().choose(request(**fields), tokenizer)).ignored == ignored


async def test_a_text_that_left_the_form_before_it_was_taken_over() -> None:
    """The form of an answer that does not have it any more is not enforced, and this is said."""
    bundle = texts()
    begun = Tokenizer.from_str(bundle.tokenizer_json).encode("maybe").ids
    wanted = GenerationRequest("r", (1, 2, *begun), Sampling(8, structure=FORM), num_committed=len(begun))
    assert (await Pickers().choose(wanted, bundle)).ignored == ("response_format",)


@pytest.mark.parametrize(
    ("prompt", "is_free"),
    [("the", True), ("the<b>", True), ("the<b>a</b>", False), ("<b>a</b>the<b>", True)],
)
async def test_a_form_is_the_answers_and_not_the_thoughts(prompt: str, is_free: bool) -> None:
    """With marks of reasoning, drafts are free up to the end mark, unless the prompt has ended it already."""
    bundle, tokenizer = thinking()
    sampling = Sampling(8, structure=FORM)
    tokens = tokenizer.encode(prompt).ids
    chosen = await Pickers().choose(
        GenerationRequest("r", tuple(tokens), sampling, structure_after=MARKS), bundle
    )
    assert chosen.ignored == ()
    assert (pick(chosen.picker, tokens, tokenizer) == "f") is is_free
    if is_free:
        thought = [*tokens, *tokenizer.encode("a fox</b>").ids]
        assert pick(chosen.picker, thought, tokenizer) in ("y", "n")
        assert pick(chosen.picker, [*thought, *tokenizer.encode("y").ids], tokenizer) in ("e", "es")
        chosen.picker.rewind(len(thought) - 1)
        assert pick(chosen.picker, thought[:-1], tokenizer) == "f"
        assert pick(chosen.picker, thought, tokenizer) in ("y", "n")


async def test_thoughts_taken_over() -> None:
    """What an answer begins with may be thoughts still, or have to keep to the form already."""
    bundle, tokenizer = thinking()
    sampling = Sampling(8, structure=FORM)
    for text, ignored in {"a fox": (), "a</b>ye": (), "a</b>fox": ("response_format",)}.items():
        begun = tokenizer.encode(text).ids
        wanted = GenerationRequest(
            "r", (1, 2, *begun), sampling, num_committed=len(begun), structure_after=MARKS
        )
        assert (await Pickers().choose(wanted, bundle)).ignored == ignored


def thinking() -> tuple[TokenizerBundle, Tokenizer]:
    """A vocabulary of letters with two marks."""
    bundle = fake_tokenizer_bundle(["the fox", "a", "yes no"])
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    tokenizer.add_tokens(["<b>", "</b>"])
    return replace(bundle, tokenizer_json=tokenizer.to_str()), tokenizer


def pick(picker: TokenPicker, tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """What is drafted by a model that likes "f" best."""
    logits = np.zeros(tokenizer.get_vocab_size(), dtype=np.float32)
    logits[tokenizer.token_to_id("f")] = 9.0
    return tokenizer.decode([picker.pick(logits, list(tokens)).token_id])
