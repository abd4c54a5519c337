"""Chooses a request's route by the model's name. Pure."""

from __future__ import annotations

from typing import Final

from edge_agent.api import Route, TargetInfo
from edge_agent.errors import NoDraftModel
from openai_gateway.chat_service import RouteChoice
from openai_gateway.errors import ModelNotFound, UnsupportedParameter
from openai_gateway.routing.parameters import Requirements

__all__ = [
    "ASKED_FOR",
    "BY_DEFAULT",
    "DEFAULT_MODEL",
    "asked_route",
    "check_model",
    "choose_route",
    "full_name",
    "served_names",
]

DEFAULT_MODEL: Final = "default"
"""A name for the target that works whatever its own name is."""

ASKED_FOR: Final = "asked for"
BY_DEFAULT: Final = "default"
_SUFFIXES: Final = {f":{route}": route for route in (Route.CLOUD, Route.LOCAL)}


def asked_route(name: str | None) -> Route | None:
    """The route that the model name asks for (`NAME:cloud`, `NAME:local`); None: any."""
    for suffix, route in _SUFFIXES.items():
        if name is not None and name.endswith(suffix):
            return route
    return None


def served_names(model: str, *, has_draft: bool = True) -> tuple[str, ...]:
    """All names of a target, the one that names no route first; without a draft model none for `local`."""
    routes = (route for route in _SUFFIXES.values() if has_draft or route is not Route.LOCAL)
    return (model, *(f"{model}:{route}" for route in routes))


def full_name(name: str, target: TargetInfo) -> str:
    """`name` with the target's name in place of "default"."""
    return target.model + name.removeprefix(DEFAULT_MODEL) if name in served_names(DEFAULT_MODEL) else name


def check_model(name: str | None, target: TargetInfo) -> None:
    """Raise `ModelNotFound` unless `name` is one of the target's, "default" or left out.

    Any name passes while the verifier's model is not known.
    """
    names = {None, "", *served_names(DEFAULT_MODEL), *served_names(target.model)}
    if target.is_known and name not in names:
        raise ModelNotFound(str(name), target.model)


def choose_route(asked: Route | None, needs: Requirements, *, has_draft: bool = True) -> RouteChoice:
    """The route for a request that has `needs`.

    Raises `UnsupportedParameter` if `asked` does not support one of the parameters, `NoDraftModel` if it is
    `local` without `has_draft`.
    """
    if not has_draft and asked is Route.LOCAL:
        raise NoDraftModel
    if asked is Route.LOCAL and (beyond := (*needs.server, *needs.target)):
        message = f"The draft model alone (route 'local') cannot do '{beyond[0]}'."
        raise UnsupportedParameter(beyond[0], message)
    if asked is not None:
        return RouteChoice(asked, ASKED_FOR, needs.server)
    return RouteChoice(Route.COLLABORATIVE, BY_DEFAULT, needs.server)
