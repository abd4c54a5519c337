"""Makes a failing plan small: the fewest faults, chats and peculiarities that still fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from benchmarks.sim.plan import Chat, EdgePlan, Fault, Plan, encode_plan

__all__ = ["shrink"]

MAX_RUNS: Final = 600

_S = TypeVar("_S", bound=msgspec.Struct)


def shrink(plan: Plan, fails: Callable[[Plan], bool], *, max_runs: int = MAX_RUNS) -> Plan:
    """The smallest plan found that still `fails`, in at most `max_runs` calls; `plan` itself does.

    Greedy: takes the first smaller plan that fails and begins again, until none does.
    """
    left = max_runs
    tried = {encode_plan(plan)}
    again = True
    while again:
        again = False
        for smaller in _smaller(plan):
            key = encode_plan(smaller)
            if key in tried:
                continue
            tried.add(key)
            if left == 0:
                return plan
            left -= 1
            if fails(smaller):
                plan, again = smaller, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with less in them, those with the least first."""
    half = len(plan.faults) // 2
    if half:
        yield replace(plan, faults=plan.faults[half:])
        yield replace(plan, faults=plan.faults[:half])
    for i in range(len(plan.faults)):
        yield replace(plan, faults=_without(plan.faults, i))
    if len(plan.chats) > 1:
        for i in range(len(plan.chats)):
            yield _without_chat(plan, i)
    if len(plan.edges) > 1:
        for i in range(len(plan.edges)):
            if all(chat.edge != i for chat in plan.chats):
                yield _without_edge(plan, i)
    if len(plan.servers) > 1:
        for i in range(len(plan.servers)):
            if all(i not in edge.servers for edge in plan.edges):
                yield _without_server(plan, i)
    for i, chat in enumerate(plan.chats):
        for smaller in _simpler_chat(chat):
            yield replace(plan, chats=_with(plan.chats, i, smaller))
    for i, edge in enumerate(plan.edges):
        for plainer in _plainer(edge, keep={"server"}):
            yield replace(plan, edges=_with(plan.edges, i, plainer))
    for i, server in enumerate(plan.servers):
        for plain in _plainer(server, keep=set()):
            yield replace(plan, servers=_with(plan.servers, i, plain))


def _simpler_chat(chat: Chat) -> Iterator[Chat]:
    yield from _plainer(chat, keep={"edge"})
    if len(chat.prompt) > 3:
        yield replace(chat, prompt=chat.prompt[: max(3, len(chat.prompt) // 2)])
    for num in (20, chat.sampling.max_tokens // 2):
        if 0 < num < chat.sampling.max_tokens and num >= chat.sampling.min_tokens:
            yield replace(chat, sampling=replace(chat.sampling, max_tokens=num))


def _plainer(part: _S, keep: set[str]) -> Iterator[_S]:
    """`part` with one of its fields, or a field of a field, at its default."""
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        if field.name in keep or field.required:
            if isinstance(value, msgspec.Struct):
                yield from (replace(part, **{field.name: inner}) for inner in _plainer(value, keep=set()))
            continue
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        if value == default:
            continue
        yield replace(part, **{field.name: default})
        if isinstance(value, msgspec.Struct):
            yield from (replace(part, **{field.name: inner}) for inner in _plainer(value, keep=set()))


def _without_chat(plan: Plan, number: int) -> Plan:
    """The plan without a chat, and without the faults that befall this chat alone."""
    faults = _faults_without(plan.faults, "chat", number)
    return replace(plan, chats=_without(plan.chats, number), faults=faults)


def _without_edge(plan: Plan, number: int) -> Plan:
    chats = tuple(_renumbered(chat, "edge", number) for chat in plan.chats)
    edges: tuple[EdgePlan, ...] = _without(plan.edges, number)
    return replace(plan, edges=edges, chats=chats, faults=_faults_without(plan.faults, "edge", number))


def _without_server(plan: Plan, number: int) -> Plan:
    edges = tuple(
        replace(
            _renumbered(edge, "server", number),
            replicas=tuple(replica - (replica > number) for replica in edge.replicas),
        )
        for edge in plan.edges
    )
    faults = _faults_without(plan.faults, "server", number)
    return replace(plan, servers=_without(plan.servers, number), edges=edges, faults=faults)


def _faults_without(faults: tuple[Fault, ...], name: str, number: int) -> tuple[Fault, ...]:
    return tuple(_renumbered(f, name, number) for f in faults if getattr(f, name, None) != number)


def _renumbered(part: _S, name: str, removed: int) -> _S:
    """`part`, whose field `name` is an index into a list that lost its entry `removed`."""
    index: Any = getattr(part, name, None)
    return replace(part, **{name: index - 1}) if index is not None and index > removed else part


_T = TypeVar("_T")


def _without(parts: tuple[_T, ...], index: int) -> tuple[_T, ...]:
    return parts[:index] + parts[index + 1 :]


def _with(parts: tuple[_T, ...], index: int, part: _T) -> tuple[_T, ...]:
    return (*parts[:index], part, *parts[index + 1 :])
