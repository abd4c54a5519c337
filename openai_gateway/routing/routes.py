"""Chooses a request's route by the model's name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_agent.api import Route, TargetInfo
from edge_agent.errors import ConfigError, NoDraftModel
from openai_gateway.chat_service import RouteChoice
from openai_gateway.errors import ModelNotFound, UnsupportedParameter
from openai_gateway.routing.parameters import Requirements

__all__ = [
    "ASKED_FOR",
    "BY_DEFAULT",
    "DEFAULT_MODEL",
    "OWN_NAMES",
    "ModelNames",
    "adapter_of",
    "asked_route",
    "choose_route",
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


def adapter_of(full: str, target: TargetInfo) -> str | None:
    """The LoRA adapter that a name asks for, perhaps with the route `cloud`; None: the target itself.

    The draft model knows no adapter, so none has a route `local`.
    """
    adapters = target.adapters or ()
    return next((name for name in (full, full.removesuffix(f":{Route.CLOUD}")) if name in adapters), None)


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What clients may call the target beside its own name.

    `aliases`: names and what each stands for: the target's name or "default", perhaps with a route. With
    `any_model` every other name is the target, too, for clients whose names cannot be changed.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    any_model: bool = False

    @classmethod
    def parse(cls, aliases: Iterable[str], *, any_model: bool = False) -> ModelNames:
        """Of `NAME=MODEL` each, or `NAME` alone for "default". Raises `ConfigError`."""
        parsed = {}
        for alias in aliases:
            name, _, model = (part.strip() for part in alias.partition("="))
            if not name or ("=" in alias and not model):
                raise ConfigError(f"aliases: {alias!r} is none: write NAME=MODEL, such as gpt-4o=default.")
            parsed[name] = model or DEFAULT_MODEL
        return cls(parsed, any_model)

    def resolve(self, name: str | None) -> str | None:
        """What `name` stands for, with the route that either of them asks for."""
        if name is None or name in self.aliases:
            return self.aliases.get(name or "", name)
        base, colon, route = name.rpartition(":")
        if colon + route in _SUFFIXES and base in self.aliases:
            return self.aliases[base].removesuffix(colon + route) + colon + route
        return name

    def route(self, name: str | None) -> Route | None:
        """The route that `name` asks for; None: any."""
        return asked_route(self.resolve(name))

    def full(self, name: str | None, target: TargetInfo) -> str:
        """The target's own name, or an adapter's, and the route asked for.

        Raises `ModelNotFound` for a name of nobody here.
        Any name is the target's while the verifier's model is not known.
        """
        named = self.resolve(name) or DEFAULT_MODEL
        if named in served_names(DEFAULT_MODEL):
            return target.model + named.removeprefix(DEFAULT_MODEL)
        if named in served_names(target.model) or adapter_of(named, target) is not None:
            return named
        if target.is_known and not self.any_model:
            raise ModelNotFound(str(name), target.model)
        route = asked_route(named)
        return target.model if route is None else f"{target.model}:{route}"

    def may_be_new(self, name: str | None, target: TargetInfo) -> bool:
        """Whether `name` is nobody's as far as is known, so that it may be an adapter's which came later."""
        named = self.resolve(name) or DEFAULT_MODEL
        if not target.is_known or (self.any_model and target.adapters is not None):
            return False
        own = (*served_names(DEFAULT_MODEL), *served_names(target.model))
        return named not in own and adapter_of(named, target) is None

    def listed(self, target: TargetInfo) -> tuple[str, ...]:
        """All names that are offered: the target's, those of LoRA adapters, then the aliases."""
        own = served_names(target.model, has_draft=target.has_draft)
        return (*own, *(target.adapters or ()), *self.aliases)


OWN_NAMES: Final = ModelNames()


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
