"""Between the wire and vLLM's parameters and log-probabilities."""

from __future__ import annotations

import json

import msgspec
import pytest
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from pipesd_vllm.api.turn_params import (
    chunk_params,
    opening_params,
    session_params,
    structured_outputs,
    token_logprobs,
    wire_sampling,
)
from pipesd_vllm.api.validation import RefuseTurn
from pipesd_vllm.wire import (
    MAX_LISTED,
    MAX_STRUCTURE_BYTES,
    RefusalCode,
    Sampling,
    Structure,
    StructureKind,
    TokenLogprobs,
)

EVERYTHING = Sampling(
    9,
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    min_p=0.1,
    seed=-(2**63),
    presence_penalty=0.25,
    frequency_penalty=-0.5,
    repetition_penalty=1.5,
    min_tokens=2,
    ignore_eos=True,
    stop_token_ids=[7],
    bad_words=["no"],
    logit_bias={3: 1.0},
    allowed_token_ids=[3, 7],
    logprobs=2,
)
NAMED_ALIKE = sorted(set(Sampling.__struct_fields__) - {"structure"})


@pytest.mark.parametrize("field", NAMED_ALIKE)
def test_to_vllm_a_turn_is_a_plain_request(field: str) -> None:
    """vLLM's own sampler gets every parameter of the turn, each of them other than its default."""
    params = opening_params(EVERYTHING, {})
    assert getattr(EVERYTHING, field) != getattr(Sampling(1), field)
    assert getattr(params, field) == getattr(EVERYTHING, field)


def test_the_scheduler_gets_its_command() -> None:
    """It travels beside the parameters, and nothing else does."""
    assert opening_params(Sampling(9), {"pipesd": b"open"}).extra_args == {"pipesd": b"open"}


def test_a_turn_that_asks_for_nothing_gets_vllms_defaults() -> None:
    """vLLM takes empty lists for something: for no token allowed at all."""
    params = opening_params(Sampling(9), {})
    assert (params.logit_bias, params.allowed_token_ids, params.logprobs) == (None, None, None)
    assert (params.temperature, params.seed, params.structured_outputs) == (0.0, None, None)


@pytest.mark.parametrize(
    ("structure", "field", "value"),
    [
        (Structure(StructureKind.JSON_SCHEMA, "{}"), "json", "{}"),
        (Structure(StructureKind.JSON_OBJECT), "json_object", True),
        (Structure(StructureKind.REGEX, "a+"), "regex", "a+"),
        (Structure(StructureKind.GRAMMAR, "root ::= x"), "grammar", "root ::= x"),
        (Structure(StructureKind.CHOICE, '["a", "b"]'), "choice", ["a", "b"]),
    ],
)
def test_every_structure_has_its_field(structure: Structure, field: str, value: object) -> None:
    """Each kind becomes the field that vLLM's backends read."""
    assert getattr(structured_outputs(structure), field) == value


def test_a_choice_that_is_no_list_is_refused() -> None:
    """A malformed structure ends in a refusal that names it."""
    with pytest.raises(RefuseTurn, match="structure") as caught:
        opening_params(Sampling(1, structure=Structure(StructureKind.CHOICE, "a")), {})
    assert caught.value.code is RefusalCode.BAD_SAMPLING


def test_the_edge_is_told_what_the_target_samples_with() -> None:
    """Each parameter comes back, and vLLM's own form of "nothing" is ours."""
    assert wire_sampling(opening_params(EVERYTHING, {})) == EVERYTHING
    assert wire_sampling(SamplingParams(max_tokens=9, temperature=0, top_k=-1)) == Sampling(9)


@pytest.mark.parametrize("kind", list(StructureKind))
def test_the_edge_is_told_every_structure(kind: StructureKind) -> None:
    """As it could have asked for it itself."""
    value = {
        StructureKind.JSON_SCHEMA: '{"type": "object"}',
        StructureKind.CHOICE: '["a", "b"]',
        StructureKind.JSON_OBJECT: "",
    }.get(kind, "a")
    sampling = Sampling(9, structure=Structure(kind, value))
    assert wire_sampling(opening_params(sampling, {})) == sampling


def test_a_structure_without_a_name_on_the_wire_is_not_told() -> None:
    """It bounds what is verified all the same."""
    for structured in (
        StructuredOutputsParams(structural_tag="{}"),
        StructuredOutputsParams(regex="a" * (MAX_STRUCTURE_BYTES + 1)),
    ):
        params = SamplingParams(max_tokens=9, temperature=0, structured_outputs=structured)
        assert wire_sampling(params) == Sampling(9)
    schema = {"type": "object"}
    told = wire_sampling(
        SamplingParams(max_tokens=9, structured_outputs=StructuredOutputsParams(json=schema))
    )
    assert told.structure is not None
    assert json.loads(told.structure.value) == schema


def test_what_the_wire_cannot_say_is_an_error() -> None:
    """Such a request is left to vLLM."""
    with pytest.raises(msgspec.ValidationError):
        wire_sampling(SamplingParams(max_tokens=9, allowed_token_ids=[3] * (MAX_LISTED + 1)))


def test_a_stream_is_the_plain_request_without_its_text() -> None:
    """Stop strings are looked for elsewhere; the request itself is not changed."""
    plain = SamplingParams(temperature=0.5, seed=3, stop=["x"], max_tokens=9, stream_interval=4)
    params = session_params(plain, {"pipesd": b"open"})
    assert (params.stop, params.detokenize, params.stream_interval) == ([], False, None)
    assert (params.temperature, params.seed, params.max_tokens) == (0.5, 3, 9)
    assert params.output_kind is RequestOutputKind.DELTA
    assert params.extra_args == {"pipesd": b"open"}
    assert (plain.stop, plain.detokenize, plain.extra_args) == (["x"], True, None)


def test_a_token_that_is_no_alternative_is_reported_beside_them() -> None:
    """Alternatives come best first and as many as were asked for; the token's own rank is kept."""
    logprobs = [{5: Logprob(-3.0, 9), 1: Logprob(-0.5, 1), 2: Logprob(-1.5, 2)}, {1: Logprob(-0.1, 1)}]
    assert token_logprobs([5, 1], logprobs, 2) == [
        TokenLogprobs(-3.0, 9, [(1, -0.5), (2, -1.5)]),
        TokenLogprobs(-0.1, 1, [(1, -0.1)]),
    ]
    assert token_logprobs([5], [logprobs[0]], 0) == [TokenLogprobs(-3.0, 9, [])]


def test_nothing_is_reported_unasked() -> None:
    """Without `Sampling.logprobs` a commit has none."""
    assert token_logprobs([5], None, None) is None


def test_chunks_share_nothing_but_their_form() -> None:
    """A later chunk's parameters carry its own command and leave those of other chunks alone."""
    first, second = chunk_params({"pipesd": b"1"}), chunk_params({"pipesd": b"2"})
    assert (first.extra_args, second.extra_args) == ({"pipesd": b"1"}, {"pipesd": b"2"})
    for params in (first, second):
        assert (params.max_tokens, params.detokenize) == (1, False)
        assert params.output_kind is RequestOutputKind.DELTA
