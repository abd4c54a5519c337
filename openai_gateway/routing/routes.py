"""Chooses a request's route by the model's name. Pure."""

from __future__ import annotations

import re
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
    "LISTED_FOR_S",
    "OWN_NAMES",
    "ModelNames",
    "adapter_of",
    "asked_route",
    "choose_route",
    "served_names",
]

DEFAULT_MODEL: Final = "default"
"""A name for the target that works whatever its own name is."""

LISTED_FOR_S: Final = 5.0
"""A list of models may be so old: however many pages poll for it, the server is asked no more often."""

ASKED_FOR: Final = "asked for"
BY_DEFAULT: Final = "default"
_SUFFIXES: Final = {f":{route}": route for route in (Route.CLOUD, Route.LOCAL)}
_DEFAULT_TAG: Final = ":latest"
"""What Ollama's clients put behind names that have no tag."""


_ROUTE: Final = re.compile(r"(:cloud|:local)(?:\s|/|:latest)*$", re.IGNORECASE)


def _parted(name: str) -> tuple[str, str]:
    """A name and the suffix of the route that it asks for, "" without one."""
    found = _ROUTE.search(name)
    return (name, "") if found is None else (name[: found.start()], found[1].lower())


def _key(name: str) -> str:
    """Equal for names that are one to Ollama (any case, its default tag or none), and for last slashes."""
    base, route = _parted(name)
    return base.strip().rstrip("/").casefold().removesuffix(_DEFAULT_TAG).rstrip("/") + route


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` means: itself if it is there, or else one that is the same to Ollama."""
    known = tuple(known)
    return name if name in known else next((each for each in known if _key(each) == _key(name)), None)


def asked_route(name: str | None) -> Route | None:
    """The route that the model name asks for (`NAME:cloud`, `NAME:local`); None: any."""
    return None if name is None else _SUFFIXES.get(_parted(name)[1])


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
    is_default: bool = True
    """Whether "default", and no name at all, mean the target: of several, the first."""

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
        if name is None:
            return None
        if (alias := _meant(name, self.aliases)) is not None:
            return self.aliases[alias]
        base, route = _parted(name)
        if route and (alias := _meant(base, self.aliases)) is not None:
            return self.aliases[alias].removesuffix(route) + route
        return name

    def route(self, name: str | None) -> Route | None:
        """The route that `name` asks for; None: any."""
        return asked_route(self.resolve(name))

    def own(self, name: str | None, target: TargetInfo) -> str | None:
        """The target's own name, or an adapter's, and the route asked for; None: `name` is nobody's here."""
        adapters = target.adapters or ()
        names = (*(served_names(DEFAULT_MODEL) if self.is_default else ()), *served_names(target.model))
        drafted = (*adapters, *(f"{adapter}:{Route.CLOUD}" for adapter in adapters))
        found = _meant(self.resolve(name) or DEFAULT_MODEL, (*names, *drafted))
        if found is not None and self.is_default and found in served_names(DEFAULT_MODEL):
            return target.model + found.removeprefix(DEFAULT_MODEL)
        return found

    def full(self, name: str | None, target: TargetInfo) -> str:
        """As `own`; any name is the target's with `any_model`, and while the verifier's model is not known.

        Raises `ModelNotFound` for a name of nobody here.
        """
        if (own := self.own(name, target)) is not None:
            return own
        if target.is_known and not self.any_model:
            raise ModelNotFound(str(name), target.model)
        route = self.route(name)
        return target.model if route is None else f"{target.model}:{route}"

    def may_be_new(self, name: str | None, target: TargetInfo) -> bool:
        """Whether `name` is nobody's as far as is known, so that it may be an adapter's which came later."""
        if not target.is_known or (self.any_model and target.adapters is not None):
            return False
        return self.own(name, target) is None

    def listed(self, target: TargetInfo) -> tuple[str, ...]:
        """All names that are offered: the target's, those of LoRA adapters, then the aliases."""
        return (*self.of(target), *self.aliases)

    def of(self, target: TargetInfo) -> tuple[str, ...]:
        """The target's own names, and those of LoRA adapters."""
        own = served_names(target.model, has_draft=target.has_draft)
        return (*own, *(target.adapters or ()))

    def listed_as(self, name: str | None, target: TargetInfo) -> str:
        """The name in the list that a client's `name` means. Raises as `full`."""
        return (name and _meant(name, self.listed(target))) or self.full(name, target)


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
