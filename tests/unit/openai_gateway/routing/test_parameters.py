from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from openai_gateway.errors import UnsupportedParameter
from openai_gateway.local import ChatRequest, CompletionRequest
from openai_gateway.routing.parameters import PARAMETERS, Requirements, Support, requirements_of

BY_SUPPORT = {kind: [name for name, p in PARAMETERS.items() if p.support is kind] for kind in Support}


def needs(body: dict[str, Any], *, adds_special_tokens: bool = False) -> tuple[str, ...]:
    return requirements_of(body, adds_special_tokens=adds_special_tokens).cloud


@pytest.mark.parametrize("name", BY_SUPPORT[Support.CLOUD])
def test_what_the_server_alone_can_do(name: str) -> None:
    """A parameter of the server's own API, with any value that asks for something, is reported."""
    assert needs({"messages": [], name: {"some": "value"}}) == (name,)


@pytest.mark.parametrize("name", BY_SUPPORT[Support.REFUSED])
def test_what_nobody_can_do(name: str) -> None:
    """A parameter that would be dropped silently is a 400 that names it."""
    with pytest.raises(UnsupportedParameter, match=name) as caught:
        needs({name: {"some": "value"}})
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("name", BY_SUPPORT[Support.COLLABORATIVE])
def test_what_every_route_can_do(name: str) -> None:
    """A collaborative parameter is a field of the schema, so that it is checked and passed on."""
    assert needs({name: {"some": "value"}}) == ()
    asks_for_nothing = {"parallel_tool_calls"}  # without tools
    assert name in {*ChatRequest.model_fields, *CompletionRequest.model_fields, *asks_for_nothing}


@pytest.mark.parametrize("name", BY_SUPPORT[Support.TARGET])
def test_what_needs_a_target(name: str) -> None:
    """What only a target knows is a field of the schema, and refused to who asks the draft model alone."""
    assert requirements_of({name: {"some": "value"}}, adds_special_tokens=False) == Requirements(
        target=(name,)
    )
    assert name in {*ChatRequest.model_fields, *CompletionRequest.model_fields}


@pytest.mark.parametrize("name", PARAMETERS)
def test_neutral_values_pass(name: str) -> None:
    """Clients that spell out the defaults, or send null, are served on the collaborative route."""
    for value in (None, *PARAMETERS[name].neutral):
        assert requirements_of({name: value}, adds_special_tokens=False) == Requirements()


def fields_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Request")]
    found = [field for node in classes for field in node.body if isinstance(field, ast.AnnAssign)]
    return {field.target.id for field in found if isinstance(field.target, ast.Name)}


def test_the_server_knows_what_it_is_sent() -> None:
    """Every parameter that is passed on is a field of vLLM's, which ignores those it does not know."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed here")
    folder = Path(spec.submodule_search_locations[0]) / "entrypoints" / "openai"
    known = fields_of(folder / "chat_completion" / "protocol.py") | fields_of(
        folder / "completion" / "protocol.py"
    )
    assert set(BY_SUPPORT[Support.CLOUD]) - known == {"continuous_usage_stats"}  # of its stream options
