"""Sampling settings on the wire."""

from dataclasses import fields

from edge_agent.api import SamplingSettings
from edge_agent.session.wire_sampling import wire_sampling
from pipesd_vllm.wire import Sampling, Structure, StructureKind

EVERYTHING = SamplingSettings(
    9,
    temperature=0.7,
    top_p=0.8,
    seed=-5,
    ignore_eos=True,
    stop_token_ids=(4,),
    top_k=30,
    min_p=0.1,
    presence_penalty=0.2,
    frequency_penalty=0.3,
    repetition_penalty=1.1,
    min_tokens=2,
    logit_bias=((1, 2.0), (3, -4.0)),
    bad_words=("no",),
    allowed_token_ids=(1, 2),
    logprobs=3,
    structure=Structure(StructureKind.REGEX, "a+"),
)


OF_THE_EDGE_ALONE = {"structure_after"}
"""The server has its own reasoning parser."""


def test_every_setting_reaches_the_server() -> None:
    """Each field arrives with its value, and settings and wire have the same fields."""
    wire = wire_sampling(EVERYTHING)
    names = {field.name for field in fields(SamplingSettings)} - OF_THE_EDGE_ALONE
    assert names == set(Sampling.__struct_fields__)
    for name in names:
        sent, given = getattr(wire, name), getattr(EVERYTHING, name)
        assert sent == (
            dict(given) if name == "logit_bias" else list(given) if isinstance(given, tuple) else given
        )


def test_what_is_left_out_is_left_out() -> None:
    """Plain settings are the wire's defaults."""
    assert wire_sampling(SamplingSettings(9)) == Sampling(9)
