"""Masks for structured output: what is drafted keeps to the form, also after a rejection."""

import json
import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_agent.api import GenerationRequest, Sampling, TokenizerBundle
from edge_agent.sampling import Pickers
from edge_agent.sampling.structure import StructureMasks
from edge_agent.testing import fake_tokenizer_bundle
from pipesd_vllm.wire import Structure, StructureKind

BUNDLE = fake_tokenizer_bundle(['{"name": "value", "count": 12}', "yes and no"])
TOKENIZER = Tokenizer.from_str(BUNDLE.tokenizer_json)
NUM_TOKENS = TOKENIZER.get_vocab_size()
END = 2
PROMPT = (5, 6, 7)
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
    "required": ["count", "ok"],
    "additionalProperties": False,
}


def matches(structure: Structure, text: str) -> bool:
    match structure.kind:
        case StructureKind.REGEX:
            return re.fullmatch(structure.value, text) is not None
        case StructureKind.CHOICE:
            return text in json.loads(structure.value)
        case StructureKind.JSON_SCHEMA:
            found = json.loads(text)
            return set(found) == {"count", "ok"} and isinstance(found["ok"], bool)
        case StructureKind.JSON_OBJECT:
            return isinstance(json.loads(text), dict)
        case _:
            return set(text) == {"a"}


FORMS = [
    Structure(StructureKind.JSON_SCHEMA, json.dumps(SCHEMA)),
    Structure(StructureKind.REGEX, "(yes|no)( (yes|no)){2}"),
    Structure(StructureKind.CHOICE, '["yes", "no way", "caf\\u00e9 \\"x\\""]'),
    Structure(StructureKind.GRAMMAR, 'root ::= "a" | "aa" | "aaa"'),
    Structure(StructureKind.GRAMMAR, 'start: "a" | "aa"'),
]


async def bundle() -> TokenizerBundle:
    return BUNDLE


def logits(tokens: list[int]) -> np.ndarray:
    """Anything at all: only the mask can make a form of it."""
    return np.random.default_rng(len(tokens)).normal(0.0, 1.0, NUM_TOKENS).astype(np.float32)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_random_logits_become_an_answer_in_form(form: Structure, temperature: float) -> None:
    """Masked drafts of a model that knows nothing end in a text of the form, greedy and sampled."""
    sampling = Sampling(
        200, temperature, seed=3 if temperature else None, structure=form, logit_bias={END: 2.0}
    )
    picker = await Pickers(bundle).picker(GenerationRequest("r", PROMPT, sampling))
    tokens = list(PROMPT)
    while len(tokens) < 200 and tokens[-1] != END:
        tokens.append(picker.pick(logits(tokens), tokens).token_id)
    text = TOKENIZER.decode(tokens[len(PROMPT) : -1], skip_special_tokens=False)
    assert tokens[-1] == END
    assert matches(form, text)


BLANKS = np.array([TOKENIZER.decode([token]).isspace() for token in range(NUM_TOKENS)])
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
        {"type": "array", "items": {"type": "array", "items": NUMBER, "maxItems": 1}, "maxItems": 2},
        {"type": "object", "properties": {"a": SCHEMA}, "required": ["a"], "additionalProperties": False},
        {"type": "object", "additionalProperties": NUMBER, "maxProperties": 0},
        {"type": "array", "items": {"enum": ["a b", None]}, "minItems": 1, "maxItems": 1},
    ],
    ids=["object", "array", "nested arrays", "nested objects", "empty", "choices"],
)
async def test_a_model_that_loves_white_space_ends(schema: dict[str, object]) -> None:
    """JSON has room for any number of blanks between its parts, which small models fill to the limit."""
    structure = Structure(StructureKind.JSON_SCHEMA, json.dumps(schema))
    sampling = Sampling(400, structure=structure, logit_bias={END: 2.0})
    picker = await Pickers(bundle).picker(GenerationRequest("r", PROMPT, sampling))
    tokens = list(PROMPT)
    while len(tokens) < 400 and tokens[-1] != END:
        tokens.append(picker.pick(logits(tokens) + 50 * BLANKS, tokens).token_id)
    assert tokens[-1] == END
    text = TOKENIZER.decode(tokens[len(PROMPT) : -1], skip_special_tokens=False)
    json.loads(text)
    assert "  " in text or "\n" in text  # some are a matter of taste


def test_white_space_that_the_client_asked_for_is_not_counted() -> None:
    """Only JSON's own is."""
    mask = StructureMasks(BUNDLE).mask(Structure(StructureKind.REGEX, " {20}x"), len(PROMPT))
    assert mask is not None
    blanks = TOKENIZER.encode(" ").ids * 15
    scores = np.zeros(NUM_TOKENS, np.float32)
    mask.apply(scores, [*PROMPT, *blanks])
    assert np.isfinite(scores[blanks[0]])


async def test_an_answer_taken_over_goes_on_in_form() -> None:
    """Tokens of the answer that come with the prompt are the form's beginning, not part of the prompt."""
    begun = TOKENIZER.encode('{"count": 1').ids
    tokens = [*PROMPT, *begun]
    sampling = Sampling(200, structure=FORMS[0], logit_bias={END: 2.0})
    wanted = GenerationRequest("r", tuple(tokens), sampling, num_committed=len(begun))
    picker = await Pickers(bundle).picker(wanted)
    while len(tokens) < 200 and tokens[-1] != END:
        tokens.append(picker.pick(logits(tokens), tokens).token_id)
    assert matches(FORMS[0], TOKENIZER.decode(tokens[len(PROMPT) : -1], skip_special_tokens=False))


def test_a_mask_rolls_back_with_the_text() -> None:
    """After any rewind, even into the prompt, the mask is that of a new one."""
    form, masks = FORMS[0], StructureMasks(BUNDLE)
    text = TOKENIZER.encode('{"count": 12, "ok": true}').ids
    mask = masks.mask(form, len(PROMPT))
    assert mask is not None
    for length in (len(text), 4, 9, 0, len(text) - 1, 2):
        mask.rewind(len(PROMPT) + length)
        scores, expected = np.zeros(NUM_TOKENS, np.float32), np.zeros(NUM_TOKENS, np.float32)
        mask.apply(scores, [*PROMPT, *text[:length]])
        fresh = masks.mask(form, len(PROMPT))
        assert fresh is not None
        fresh.apply(expected, [*PROMPT, *text[:length]])
        assert (scores == expected).all()
        assert 0 < np.isfinite(scores).sum() < NUM_TOKENS


def test_a_text_that_left_the_form_is_not_masked() -> None:
    """The server may see the form otherwise: drafting goes on without a mask, and with one after a rewind."""
    mask = StructureMasks(BUNDLE).mask(FORMS[1], len(PROMPT))
    assert mask is not None
    scores = np.zeros(NUM_TOKENS + 3, np.float32)
    mask.apply(scores, [*PROMPT, *TOKENIZER.encode("maybe").ids])
    assert np.isfinite(scores).all()
    mask.rewind(len(PROMPT))
    mask.apply(scores, PROMPT)
    assert 0 < np.isfinite(scores).sum() < NUM_TOKENS
    assert not np.isfinite(scores[NUM_TOKENS:]).any()


@pytest.mark.parametrize(
    "form",
    [
        Structure(StructureKind.REGEX, "(secret"),
        Structure(StructureKind.JSON_SCHEMA, '{"type": "secret"}'),
        Structure(StructureKind.CHOICE, "secret"),
        Structure(StructureKind.GRAMMAR, "no secret at all ::: ("),
    ],
    ids=lambda form: form.kind,
)
def test_a_form_that_is_not_understood_here_is_left_to_the_server(
    form: Structure, caplog: pytest.LogCaptureFixture
) -> None:
    """Drafting goes on without a mask; the form is the server's to judge, and no log quotes it."""
    assert StructureMasks(BUNDLE).mask(form, 3) is None
    assert "without the answer's form" in caplog.text
    assert "secret" not in caplog.text


async def test_without_a_tokenizer_there_is_no_mask() -> None:
    """A tokenizer that cannot be had, or read, costs drafts, not the request."""

    async def broken() -> TokenizerBundle:
        return TokenizerBundle("{}", None, {}, ())

    wanted = GenerationRequest("r", PROMPT, Sampling(8, structure=FORMS[0]))
    for pickers in (Pickers(), Pickers(broken)):
        picker = await pickers.picker(wanted)
        assert picker.pick(logits([]), list(PROMPT)).token_id == int(logits([]).argmax())
