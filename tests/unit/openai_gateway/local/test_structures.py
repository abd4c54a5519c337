from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openai_gateway.errors import InvalidRequest, UnsupportedParameter
from openai_gateway.local import CompletionRequest, parse_request
from openai_gateway.local.structures import structure_of
from pipesd_vllm.wire import MAX_STRUCTURE_BYTES, Structure, StructureKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SCHEMA_TEXT = msgspec.json.encode(SCHEMA).decode()


def structure(**fields: Any) -> Structure | None:
    return structure_of(parse_request(CompletionRequest, msgspec.json.encode({"prompt": "x", **fields})))


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            "json_schema",
            SCHEMA_TEXT,
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA_TEXT),
        ({"structured_outputs": {"json": SCHEMA_TEXT, "regex": None}}, "json_schema", SCHEMA_TEXT),
        ({"structured_outputs": {"json_object": True}}, "json_object", ""),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "choice", '["yes","no"]'),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "grammar", "root ::= x"),
    ],
)
def test_every_way_to_say_it(fields: dict[str, Any], kind: str, value: str) -> None:
    """OpenAI's field and vLLM's arrive as the wire's one structure."""
    assert structure(**fields) == Structure(StructureKind(kind), value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": None}},
    ],
)
def test_no_form(fields: dict[str, Any]) -> None:
    """Plain text asks for nothing."""
    assert structure(**fields) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
        {"structured_outputs": {"choice": []}},
        {"structured_outputs": {"choice": [1]}},
        {"structured_outputs": {"json": "[1]"}},
        {"structured_outputs": {"json": "{"}},
        {"structured_outputs": {"regex": ""}},
        {"structured_outputs": {"json_object": "yes"}},
        {"structured_outputs": {"regex": "x" * (MAX_STRUCTURE_BYTES + 1)}},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
    ],
)
def test_forms_that_make_no_sense(fields: dict[str, Any]) -> None:
    """Malformed and contradictory forms are 400s that name the field."""
    with pytest.raises(InvalidRequest) as caught:
        structure(**fields)
    assert caught.value.param in {"response_format", "structured_outputs"}


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "structural_tag"}}, {"structured_outputs": {"structural_tag": "x"}}],
)
def test_forms_that_nobody_enforces(fields: dict[str, Any]) -> None:
    """A form outside the wire's five is refused, not dropped."""
    with pytest.raises(UnsupportedParameter):
        structure(**fields)
