from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from openai_gateway.errors import UnsupportedParameter
from openai_gateway.local import GenerationFields
from openai_gateway.routing.parameters import (
    PARAMETERS,
    RENAMED,
    VLLM_FIELDS,
    Requirements,
    Support,
    requirements_of,
)

BY_SUPPORT = {kind: [name for name, p in PARAMETERS.items() if p.support is kind] for kind in Support}


def requirements_of_chat(body: dict[str, Any]) -> Requirements:
    return requirements_of(body, "/v1/chat/completions")


def needs(body: dict[str, Any]) -> tuple[str, ...]:
    return requirements_of_chat(body).server


@pytest.mark.parametrize("name", BY_SUPPORT[Support.SERVER])
def test_what_the_server_alone_can_do(name: str) -> None:
    """A parameter that needs the server, with any value that asks for something, is reported."""
    assert needs({"messages": [], name: {"some": "value"}}) == (name,)


@pytest.mark.parametrize("name", BY_SUPPORT[Support.REFUSED])
def test_what_nobody_can_do(name: str) -> None:
    """A parameter without which the answer would be another one is a 400 that names it."""
    with pytest.raises(UnsupportedParameter, match=name) as caught:
        needs({name: {"some": "value"}})
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("name", BY_SUPPORT[Support.NOBODY])
def test_what_nobody_can_do_and_no_answer_needs(name: str) -> None:
    """It is answered without, and named."""
    assert requirements_of_chat({name: {"some": "value"}}) == Requirements(nobody=(name,))


@pytest.mark.parametrize("name", GenerationFields.model_fields)
def test_what_the_draft_model_does(name: str) -> None:
    """A field of the schema is checked and followed on the route `local`."""
    assert needs({name: {"some": "value"}}) == ()


@pytest.mark.parametrize(("name", "now"), RENAMED.items())
def test_names_of_older_versions(name: str, now: str) -> None:
    """They are a 400 that says today's."""
    with pytest.raises(UnsupportedParameter, match=f"'{now}' now"):
        needs({name: 4})
    assert needs({name: None}) == ()


@pytest.mark.parametrize("name", BY_SUPPORT[Support.TARGET])
def test_what_needs_a_target(name: str) -> None:
    """What only a target knows is refused to who asks the draft model alone."""
    assert requirements_of_chat({name: {"some": "value"}}) == Requirements(target=(name,))


@pytest.mark.parametrize("name", PARAMETERS)
def test_neutral_values_pass(name: str) -> None:
    """Clients that spell out the defaults, or send null, ask for nothing."""
    for value in (None, *PARAMETERS[name].neutral):
        assert requirements_of_chat({name: value}) == Requirements()


def fields_of(path: Path, name: str) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    fields = [field.target for field in found.body if isinstance(field, ast.AnnAssign)]
    return {field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_")}


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("/v1/chat/completions", "chat_completion", "ChatCompletionRequest"),
        ("/v1/completions", "completion", "CompletionRequest"),
    ],
)
def test_the_table_has_vllms_fields(path: Any, folder: str, name: str) -> None:
    """All of them and no other: one new in vLLM would be called ignored, one that is gone would vanish."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed here")
    source = Path(spec.submodule_search_locations[0]) / "entrypoints" / "openai" / folder / "protocol.py"
    assert fields_of(source, name) == VLLM_FIELDS[path]


def test_who_supports_what_is_known_to_vllm() -> None:
    """What a target or its server does is a field of vLLM's; what nobody does is none."""
    known = frozenset.union(*VLLM_FIELDS.values()) - {"suffix"}  # which vLLM has, and refuses
    assert known >= {*BY_SUPPORT[Support.SERVER], *BY_SUPPORT[Support.TARGET]}
    assert not known & {*BY_SUPPORT[Support.NOBODY], *BY_SUPPORT[Support.REFUSED]}


@pytest.mark.parametrize(("name", "value"), [("n", True), ("length_penalty", True)])
def test_booleans_are_not_numbers(name: str, value: object) -> None:
    """1 and true are different wishes."""
    assert needs({name: value}) == (name,)


def test_no_alternatives_are_not_no_report() -> None:
    """0 and false too: `logprobs: 0` asks for the chosen token's."""
    assert requirements_of_chat({"logprobs": 0}) == Requirements(target=("logprobs",))


def test_harmless_extras_pass() -> None:
    """Fields on which no answer depends are not named; those that nobody knows are."""
    extra = {"user": "u", "metadata": {"a": 1}, "store": True, "service_tier": "auto", "unheard_of": [1]}
    assert requirements_of_chat(extra) == Requirements(nobody=("unheard_of",))
    assert requirements_of({"top_logprobs": 3}, "/v1/completions").target == ("top_logprobs",)


def test_images_and_several_prompts() -> None:
    """Parts that are not text, and several prompts, are the server's; one prompt of tokens is ours."""
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    assert needs({"messages": [image]}) == ("messages",)
    assert needs({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}) == ()
    assert needs({"prompt": ["a", "b"]}) == needs({"prompt": [[1], [2]]}) == ("prompt",)
    assert needs({"prompt": [None, None]}) == needs({"prompt": [[1], ["a"]]}) == ()  # nobody's
    unhashable = {"role": "user", "content": [{"type": {}}]}
    assert needs({"messages": [unhashable]}) == ()
    assert needs({"prompt": [1, 2]}) == needs({"prompt": ["a"]}) == needs({"messages": [7]}) == ()
