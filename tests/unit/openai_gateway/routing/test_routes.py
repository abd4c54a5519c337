from __future__ import annotations

import pytest

from edge_agent.api import Route, TargetInfo
from edge_agent.errors import NoDraftModel
from openai_gateway.chat_service import route_header
from openai_gateway.errors import ModelNotFound, UnsupportedParameter
from openai_gateway.routing import asked_route, check_model, full_name
from openai_gateway.routing.parameters import Requirements
from openai_gateway.routing.routes import choose_route

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
    check_model(name, TARGET)


@pytest.mark.parametrize("name", ["target", "gpt-4o", "org/target:edge", ":cloud", "gpt-4o:local"])
def test_other_names(name: str) -> None:
    """Any other name is a 404 that says what is served."""
    with pytest.raises(ModelNotFound, match="org/target") as caught:
        check_model(name, TARGET)
    assert caught.value.status == 404


def test_any_name_while_nothing_is_known() -> None:
    """Before a verifier was ever reached, nobody can say that a name is wrong."""
    check_model("whatever", TargetInfo("draft", 10, 100, is_known=False))


def test_names_of_the_default() -> None:
    """ "default" stands for the target on every route."""
    assert [full_name(name, TARGET) for name in ("default", "default:local", "org/target:cloud")] == [
        "org/target",
        "org/target:local",
        "org/target:cloud",
    ]


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
