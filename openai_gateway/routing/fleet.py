"""Several targets in one gateway: which of them a request's model names, and all names that there are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from edge_agent.api import Generator, Route, TargetInfo
from edge_agent.errors import EdgeError
from openai_gateway.chat_service import Answer, ChatService, Json, SessionOptions
from openai_gateway.routing.routes import LISTED_FOR_S, ModelNames

__all__ = ["ByModel", "Fleet", "Listed", "Member"]

PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Member:
    """One target: its agent, and what its models are called."""

    label: str
    """What it is called while nobody knows its model's name: its server's URL."""
    generator: Generator
    names: ModelNames


@dataclass(frozen=True, slots=True)
class Listed:
    """A name in the list of models, and the target that it means."""

    name: str
    member: Member
    target: TargetInfo

    @property
    def is_local(self) -> bool:
        """Whether the draft model answers to it."""
        return self.name != self.target.model and self.member.names.route(self.name) is Route.LOCAL

    @property
    def max_model_len(self) -> int:
        """Tokens of context."""
        return (self.target.draft_max_len if self.is_local else None) or self.target.max_model_len


class Fleet:
    """The targets of a gateway. One that is away is left out, unless it is the only one."""

    def __init__(
        self, generators: Mapping[str, Generator], names: ModelNames, patience_s: float = PATIENCE_S
    ) -> None:
        """`generators` by label. The first is "default", and with `any_model` every name that is nobody's.

        So long is waited for what another one's server says of itself.
        """
        self._patience_s = patience_s
        others = replace(names, any_model=False, is_default=False)
        self.members = tuple(
            Member(label, generator, others if number else names)
            for number, (label, generator) in enumerate(generators.items())
        )

    async def pick(self, name: object) -> Member:
        """The one that a request's model names; the first, where it is to say that it knows no such name."""
        first = self.members[0]
        if len(self.members) == 1 or not isinstance(name, str):
            return first
        found = await self._find(name, offline=True)
        if found is None and first.names.route(name) is not Route.LOCAL and not first.names.any_model:
            found = await self._find(name, max_age_s=0.0)  # adapters may have come
        return found or first

    async def knows(self, name: str) -> bool:
        """Whether `name` is one that a target or an alias has; opens no connection."""
        return await self._find(name, offline=True) is not None

    async def _find(self, name: str, **how: Any) -> Member | None:
        known = await self._known(**how)
        return next((m for m, target in known if m.names.own(name, target) is not None), None)

    async def listed(self) -> list[Listed]:
        """All names that are offered: the targets', then the aliases. Raises as `Generator.target`."""
        first = self.members[0]
        known = await self._known(max_age_s=LISTED_FOR_S) or [(first, await first.generator.target())]
        found: dict[str, Listed] = {}
        for member, target in known:
            for name in member.names.of(target):
                found.setdefault(name, Listed(name, member, target))
        for alias in first.names.aliases:
            meant = (each for each in known if each[0].names.own(alias, each[1]) is not None)
            if (pair := next(meant, known[0] if len(self.members) == 1 else None)) is not None:
                found.setdefault(alias, Listed(alias, *pair))
        return [*found.values()]

    async def listed_as(self, name: str) -> Listed:
        """What the list has for a client's `name`. Raises `ModelNotFound`, and as `Generator.target`."""
        member = await self.pick(name)
        is_local = member.names.route(name) is Route.LOCAL
        target = await member.generator.target(offline=is_local, max_age_s=LISTED_FOR_S)
        return Listed(member.names.listed_as(name, target), member, target)

    async def health(self) -> Json:
        """The first one's, and of several whether each of their servers answers."""
        first, *others = self.members
        own, states = await asyncio.gather(
            first.generator.health(), asyncio.gather(*(self._state(member) for member in others))
        )
        if not states:
            return dict(own)
        names = {member.label: target.model for member, target in await self._known(offline=True)}
        # Not by its server's address: anyone may read this.
        called = [names.get(each.label, f"target {n}") for n, each in enumerate(self.members, 1)]
        told = (own.get("cloud", own["status"]), *states)
        return {**own, "targets": dict(zip(called, told, strict=True))}

    async def _state(self, member: Member) -> str:
        """Whether its server answers, in the words of `Generator.health`."""
        try:
            async with asyncio.timeout(self._patience_s):
                told = await member.generator.health()
        except TimeoutError:
            return "out of reach"
        return told.get("cloud", told["status"])

    async def _known(self, **how: Any) -> list[tuple[Member, TargetInfo]]:
        """The targets of which something is known, also if they are away; `how`: see `Generator.target`."""
        asked = (self._target(member, **how) for member in self.members)
        told = await asyncio.gather(*asked, return_exceptions=True)
        for each in told:
            if isinstance(each, BaseException) and not isinstance(each, EdgeError):
                raise each
        return [(m, each) for m, each in zip(self.members, told, strict=True) if isinstance(each, TargetInfo)]

    async def _target(self, member: Member, **how: Any) -> TargetInfo:
        if member is self.members[0]:
            return await member.generator.target(**how)
        try:
            async with asyncio.timeout(self._patience_s):
                return await member.generator.target(**how)
        except TimeoutError:
            return await member.generator.target(offline=True)


class ByModel:
    """Has the service of the target answer that a request's model names. Implements `ChatService`."""

    def __init__(self, fleet: Fleet, services: Mapping[str, ChatService]) -> None:
        """`services` by the labels of the targets."""
        self._fleet = fleet
        self._services = services

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """See `ChatService.answer`."""
        member = await self._fleet.pick(body.get("model"))
        return await self._services[member.label].answer(body, options)
