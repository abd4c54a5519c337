from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.api import Route, TargetInfo
from edge_agent.errors import ConfigError, NoDraftModel
from openai_gateway.chat_service import route_header
from openai_gateway.errors import ModelNotFound, UnsupportedParameter
from openai_gateway.routing import OWN_NAMES, ModelNames, asked_route
from openai_gateway.routing.parameters import Requirements
from openai_gateway.routing.routes import adapter_of, choose_route

TARGET = TargetInfo("org/target", max_model_len=10, vocab_size=100)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "default",
        "default:local",
        "default:cloud",
        "org/target",
        "org/target:cloud",
        "org/target:local",
    ],
)
def test_names_of_the_target(name: str | None) -> None:
    """The target answers to its id, to "default" and to no name, each on every route."""
    OWN_NAMES.full(name, TARGET)


@pytest.mark.parametrize("name", ["target", "gpt-4o", "org/target:edge", ":cloud", "gpt-4o:local"])
def test_other_names(name: str) -> None:
    """Any other name is a 404 that says what is served."""
    with pytest.raises(ModelNotFound, match="org/target") as caught:
        OWN_NAMES.full(name, TARGET)
    assert caught.value.status == 404


def test_any_name_while_nothing_is_known() -> None:
    """Before a verifier was ever reached, nobody can say that a name is wrong."""
    assert OWN_NAMES.full("whatever:local", TargetInfo("draft", 10, 100, is_known=False)) == "draft:local"


def test_names_of_the_default() -> None:
    """ "default" stands for the target on every route."""
    assert [OWN_NAMES.full(name, TARGET) for name in ("default", "default:local", "org/target:cloud")] == [
        "org/target",
        "org/target:local",
        "org/target:cloud",
    ]


@pytest.mark.parametrize(
    ("name", "full", "route"),
    [
        ("gpt-4o", "org/target", None),
        ("gpt-4o:cloud", "org/target:cloud", Route.CLOUD),
        ("fast", "org/target:local", Route.LOCAL),
        ("fast:local", "org/target:local", Route.LOCAL),
        ("mine", "org/target", None),
        ("org/target:cloud", "org/target:cloud", Route.CLOUD),
    ],
)
def test_aliases(name: str, full: str, route: Route | None) -> None:
    """A name of the owner's choice, which may stand for a route, too; routes can be asked of it."""
    names = ModelNames.parse(["gpt-4o", "fast=default:local", " mine = org/target "])
    assert (names.full(name, TARGET), names.route(name)) == (full, route)
    assert names.listed(TARGET)[-3:] == ("gpt-4o", "fast", "mine")
    with pytest.raises(ModelNotFound):
        names.full("gpt-5", TARGET)


@pytest.mark.parametrize(
    ("name", "full", "route"),
    [
        ("org/target:latest", "org/target", None),
        ("Org/Target", "org/target", None),
        ("org/target/", "org/target", None),
        (" org/target ", "org/target", None),
        ("org/target:latest:cloud", "org/target:cloud", Route.CLOUD),
        ("org/target:local:latest", "org/target:local", Route.LOCAL),
        ("org/target:LOCAL", "org/target:local", Route.LOCAL),
        ("default:latest", "org/target", None),
        ("llama3:latest", "org/target", None),
        ("LLaMA3", "org/target", None),
        ("llama3:latest:cloud", "org/target:cloud", Route.CLOUD),
        ("mistral", "org/target:local", Route.LOCAL),
        ("mistral:Latest", "org/target:local", Route.LOCAL),
        ("qwen3:8B", "org/target", None),
        ("/models/big", "org/target", None),
        ("Poet:latest", "poet", None),
        ("poet:cloud:latest", "poet:cloud", Route.CLOUD),
    ],
)
def test_names_as_ollama_compares_them(name: str, full: str, route: Route | None) -> None:
    """With the tag `latest` or without it, in any case, and whatever slashes a path ends in."""
    target = replace(TARGET, adapters=("poet",))
    names = ModelNames.parse(
        ["llama3", "mistral:latest=DEFAULT:local", "qwen3:8b", "/models/big/=org/target"]
    )
    assert (names.full(name, target), names.route(name)) == (full, route)
    assert not names.may_be_new(name, target)


@pytest.mark.parametrize(
    "name", ["llama3:8b", "llama", "qwen3", "qwen3:latest", "target:latest", ":latest", "/"]
)
def test_other_tags_are_other_models(name: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelNames.parse(["llama3", "qwen3:8b"]).full(name, TARGET)


def test_a_name_that_is_there_is_meant_before_an_equal_one() -> None:
    """Adapters may differ in case alone, and a target may be called by a tag."""
    target = replace(TARGET, adapters=("poet", "Poet"))
    assert [OWN_NAMES.full(name, target) for name in ("poet", "Poet", "POET")] == ["poet", "Poet", "poet"]
    names = ModelNames.parse(["m=org/target:cloud", "m:latest=org/target"])
    assert [names.full(name, target) for name in ("m", "m:latest")] == ["org/target:cloud", "org/target"]
    tagged = replace(TARGET, model="m:latest")
    assert [OWN_NAMES.full(name, tagged) for name in ("m", "m:cloud")] == ["m:latest", "m:latest:cloud"]


def test_names_of_adapters() -> None:
    """Each on the target's routes, under aliases, too; the target's own names are never an adapter's."""
    target = replace(TARGET, adapters=("poet", "default", "org/target"))
    names = ModelNames.parse(["bard=poet"], any_model=True)
    asked = ("poet", "poet:cloud", "bard", "default", "org/target")
    assert [names.full(name, target) for name in asked] == [
        *("poet", "poet:cloud", "poet", "org/target", "org/target")
    ]
    assert [adapter_of(name, target) for name in ("poet", "poet:cloud", "poet:local")] == [
        *("poet", "poet", None)
    ]
    with pytest.raises(ModelNotFound):
        OWN_NAMES.full("poet:local", target)


def test_unknown_names_may_be_those_of_new_adapters() -> None:
    """With any name allowed the server is asked once, not for each request of such a client."""
    asked, any_name = replace(TARGET, adapters=("poet",)), ModelNames(any_model=True)
    new = [OWN_NAMES.may_be_new(name, asked) for name in ("painter", "poet", "default:cloud", None)]
    assert new == [True, False, False, False]
    assert (any_name.may_be_new("gpt", TARGET), any_name.may_be_new("gpt", asked)) == (True, False)
    assert not OWN_NAMES.may_be_new("painter", replace(TARGET, is_known=False))


@pytest.mark.parametrize("alias", ["", "=x", "x="])
def test_aliases_that_are_none(alias: str) -> None:
    with pytest.raises(ConfigError, match="NAME=MODEL"):
        ModelNames.parse([alias])


def test_any_name() -> None:
    """For clients whose names cannot be changed; routes can be asked of any, too."""
    names = ModelNames(any_model=True)
    assert names.full("claude-x", TARGET) == "org/target"
    assert names.full("claude-x:local", TARGET) == "org/target:local"


def test_a_name_is_echoed_in_bounds() -> None:
    """However long it is."""
    with pytest.raises(ModelNotFound) as caught:
        OWN_NAMES.full("x" * 10**6, TARGET)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("name", "needs", "route", "reason"),
    [
        ("m", (), Route.COLLABORATIVE, "default"),
        ("m", ("n", "tools"), Route.COLLABORATIVE, "default"),
        ("m:cloud", (), Route.CLOUD, "asked for"),
        ("m:cloud", ("n",), Route.CLOUD, "asked for"),
        ("m:local", (), Route.LOCAL, "asked for"),
        (None, (), Route.COLLABORATIVE, "default"),
    ],
)
def test_choice(name: str | None, needs: tuple[str, ...], route: Route, reason: str) -> None:
    """The name decides; whatever the parameters need, the target's answers are drafted for."""
    target = () if name == "m:local" else ("logprobs",)
    choice = choose_route(asked_route(name), Requirements(needs, target))
    assert (choice.route, choice.reason, choice.causes) == (route, reason, needs)


def test_what_the_draft_alone_cannot_do() -> None:
    """`NAME:local` with a parameter of the server's is a 400 that names it."""
    for needs in (Requirements(("tools",), ("logprobs",)), Requirements((), ("logprobs",))):
        with pytest.raises(UnsupportedParameter, match="local") as caught:
            choose_route(Route.LOCAL, needs)
        assert caught.value.param == (*needs.server, *needs.target)[0]


def test_without_a_draft_model() -> None:
    """Answers are drafted for without one; only `local` is refused."""
    assert choose_route(None, Requirements(("tools",)), has_draft=False).route is Route.COLLABORATIVE
    assert choose_route(Route.CLOUD, Requirements(), has_draft=False).reason == "asked for"
    with pytest.raises(NoDraftModel, match="pip install"):
        choose_route(Route.LOCAL, Requirements(), has_draft=False)


def test_route_header_is_one_printable_line() -> None:
    """A reason cannot break out of its header."""
    assert route_header(Route.LOCAL, "a\r\nset-cookie: é") == {
        "x-pipesd-route": "local; reason=a??set-cookie: ?"
    }
