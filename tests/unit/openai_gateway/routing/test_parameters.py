from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from openai_gateway.errors import UnsupportedParameter
from openai_gateway.local import GenerationFields
from openai_gateway.routing.parameters import PARAMETERS, RENAMED, Requirements, Support, requirements_of

BY_SUPPORT = {kind: [name for name, p in PARAMETERS.items() if p.support is kind] for kind in Support}


def needs(body: dict[str, Any]) -> tuple[str, ...]:
    return requirements_of(body).server


@pytest.mark.parametrize("name", BY_SUPPORT[Support.SERVER])
def test_what_the_server_alone_can_do(name: str) -> None:
    """A parameter that needs the server, with any value that asks for something, is reported."""
    assert needs({"messages": [], name: {"some": "value"}}) == (name,)


@pytest.mark.parametrize("name", BY_SUPPORT[Support.REFUSED])
def test_what_nobody_can_do(name: str) -> None:
    """A parameter that would be dropped silently is a 400 that names it."""
    with pytest.raises(UnsupportedParameter, match=name) as caught:
        needs({name: {"some": "value"}})
    assert (caught.value.status, caught.value.param) == (400, name)


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
    assert requirements_of({name: {"some": "value"}}) == Requirements(target=(name,))


@pytest.mark.parametrize("name", PARAMETERS)
def test_neutral_values_pass(name: str) -> None:
    """Clients that spell out the defaults, or send null, ask for nothing."""
    for value in (None, *PARAMETERS[name].neutral):
        assert requirements_of({name: value}) == Requirements()


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
    assert set(BY_SUPPORT[Support.SERVER]) - known == {"continuous_usage_stats"}  # of its stream options


@pytest.mark.parametrize(("name", "value"), [("n", True), ("length_penalty", True)])
def test_booleans_are_not_numbers(name: str, value: object) -> None:
    """1 and true are different wishes."""
    assert needs({name: value}) == (name,)


def test_no_alternatives_are_not_no_report() -> None:
    """0 and false too: `logprobs: 0` asks for the chosen token's."""
    assert requirements_of({"logprobs": 0}) == Requirements(target=("logprobs",))


def test_harmless_extras_pass() -> None:
    """Fields that change nothing, and fields nobody knows, are ignored."""
    extra = {"user": "u", "metadata": {"a": 1}, "store": True, "service_tier": "auto", "unheard_of": [1]}
    assert needs(extra) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("xtc_probability", 0.5),
        ("dry_multiplier", 0.8),
        ("tfs_z", 0.9),
        ("top_a", 0.1),
        ("samplers", ["top_k"]),
    ],
)
def test_samplers_of_other_servers(name: str, value: object) -> None:
    """A sampler that nobody here has is refused by name; settings of samplers that are off change nothing."""
    off = {"xtc_probability": 0.0, "xtc_threshold": 0.1, "dry_base": 1.75, "mirostat": 0, "mirostat_tau": 5.0}
    assert needs(off) == ()
    with pytest.raises(UnsupportedParameter, match=name):
        needs(off | {name: value})


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


def test_options_of_the_stream() -> None:
    """What the stream's options ask for counts as well."""
    assert needs({"stream_options": {"continuous_usage_stats": True}}) == ("continuous_usage_stats",)
