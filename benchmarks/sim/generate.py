"""Plans by seed: some wander, the others aim where bugs were found. Pure: the same seed, the same plan.

What is aimed at: connections cut in mid-answer while the target waits for good drafts, servers that come
back with another model, sessions that crowd each other out, lines that fall silent, servers and edges that
break the protocol, and draft models that are slow, fail or are full.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from benchmarks.sim.models import EOS_ID, HABITUAL, VOCAB_SIZE, reference
from benchmarks.sim.plan import (
    DEFAULT_PARAMETERS,
    AbortAll,
    Api,
    Blackhole,
    Chat,
    DraftCost,
    DraftFails,
    EdgeCrash,
    EdgeLie,
    EdgeLies,
    EdgePlan,
    EngineDeath,
    EngineStall,
    Fault,
    Leave,
    LinkPlan,
    NatForgets,
    Overload,
    Plan,
    Refuse,
    Reset,
    Restart,
    ServerLie,
    ServerLies,
    ServerPlan,
    Side,
    Stall,
    StepCost,
    Unauthorized,
)
from edge_agent.api import Fallback, Route, SessionMode
from edge_agent.control import PolicyParameters
from pipesd_vllm.wire import Sampling, Structure, StructureKind

__all__ = ["plan_of"]

_T = TypeVar("_T")
_FIRST_WORD: Final = 266
OTHER_TARGET: Final = "other"
_SIDES: Final = (Side.UP, Side.DOWN)


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    draw = _Draw(random.Random(f"plan/{seed}"))
    kind = draw.weighted(
        {wander: 10, cut: 4, restarted: 2, crowded: 2, silent: 2, hostile: 2, slow_drafts: 2}
    )
    plan = kind(draw)
    servers = [replace(server, async_scheduling=draw.chance(0.4)) for server in plan.servers]
    if draw.chance(0.4):
        servers = [replace(server, target=HABITUAL) for server in servers]
    edges = [replace(edge, lookup=draw.chance(0.9)) for edge in plan.edges]
    if draw.chance(0.15):  # each server has a replica
        edges = [replace(edge, replicas=(len(servers) + edge.server,)) for edge in edges]
        servers += servers
    return replace(plan, seed=seed, servers=tuple(servers), edges=tuple(edges))


class _Draw:
    """Draws of one plan."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def of(self, *values: _T) -> _T:
        """One of `values`, each as likely as the others."""
        return self.rng.choice(values)

    def weighted(self, weights: dict[_T, int]) -> _T:
        return self.rng.choices([*weights], [*weights.values()])[0]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def time_s(self, longest_s: float) -> float:
        return round(self.rng.random() * longest_s, 3)

    def early_s(self) -> float:
        """A moment in the first seconds more often than later."""
        return self.time_s(self.of(1.0, 5.0, 20.0))

    def prompt(self, *lengths: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(_FIRST_WORD, VOCAB_SIZE) for _ in range(self.of(*lengths)))


# -- what aims where ----------------------------------------------------------------------


def wander(draw: _Draw) -> Plan:
    """Anything with anything."""
    servers = tuple(_server(draw) for _ in range(draw.of(1, 1, 1, 2)))
    edges = [_edge(draw, draw.rng.randrange(len(servers))) for _ in range(draw.of(1, 1, 2, 2, 3, 4))]
    chats: list[Chat] = []
    for edge in range(len(edges)):
        start_s = 0.0
        for _ in range(draw.of(1, 1, 1, 2)):
            chats.append(_chat(draw, edge, start_s))
            start_s += draw.of(0.0, 0.2, 6.0, 20.0)
    faults = [_fault(draw, len(edges), len(chats), len(servers)) for _ in range(draw.of(0, 0, 1, 2, 3, 4, 6))]
    return _plan(servers, edges, chats, faults)


def cut(draw: _Draw) -> Plan:
    """Good drafts, a target that waits for them, and connections cut in mid-answer."""
    parameters = changed(DEFAULT_PARAMETERS, max_ahead=draw.of(8, 16), max_window=draw.of(4, 12))
    edge = EdgePlan(
        link=LinkPlan(delay_s=draw.of(0.005, 0.015, 0.05)),
        draft=DraftCost(call_s=draw.of(0.004, 0.01, 0.02)),
        agreement=draw.of(0.9, 0.95, 1.0),
        fallback=draw.of(*Fallback),
        parameters=parameters,
    )
    mode = draw.of(SessionMode.OFFLOAD, SessionMode.OFFLOAD, SessionMode.OFFLOAD, SessionMode.BALANCED)
    chat = _chat(draw, 0, 0.0, mode=mode, plain=True)
    chat = replace(chat, sampling=replace(chat.sampling, max_tokens=draw.of(48, 64, 100)), policy="adaptive")
    faults: list[Fault] = [
        Reset(edge=0, connection=i, side=draw.of(*_SIDES), after=draw.rng.randrange(4, 16))
        for i in range(draw.of(1, 1, 2, 3))
    ]
    server = ServerPlan(step=StepCost(base_s=draw.of(0.015, 0.03, 0.065)))
    return _plan((server,), [edge], [chat], faults)


def restarted(draw: _Draw) -> Plan:
    """The server dies in mid-answer and comes back, often with another model; the draft reads slowly."""
    edges = [
        EdgePlan(
            link=LinkPlan(delay_s=draw.of(0.005, 0.01, 0.025), jitter_s=draw.of(0.0, 0.005)),
            draft=DraftCost(call_s=0.004, token_s=draw.of(0.0, 0.001, 0.01)),
            fallback=draw.of(*Fallback),
        )
        for _ in range(draw.of(1, 1, 2))
    ]
    chats = [_chat(draw, i, 0.0, prompt=draw.prompt(17, 60, 60)) for i in range(len(edges))]
    at_s = round(0.1 + draw.time_s(1.5), 3)
    target = draw.of(OTHER_TARGET, OTHER_TARGET, None)
    faults: list[Fault] = [Restart(at_s=at_s, down_s=draw.of(0.05, 0.05, 0.5, 2.0), target=target)]
    for _ in range(draw.of(1, 1, 2)):
        edge = draw.rng.randrange(len(edges))
        faults.append(
            Reset(edge=edge, connection=draw.of(0, 0, 1, 2), side=Side.DOWN, after=draw.of(4, 8, 12))
        )
    return _plan((ServerPlan(step=StepCost(base_s=draw.of(0.015, 0.03))),), edges, chats, faults)


def crowded(draw: _Draw) -> Plan:
    """More sessions than seats or blocks, and edges that wait, leave or crash."""
    num = draw.of(3, 4, 5)
    server = ServerPlan(
        step=StepCost(base_s=draw.of(0.005, 0.015)),
        num_blocks=draw.of(16, 24, 40),
        max_num_seqs=draw.of(1, 2, 2, 8),
        suspend_after_s=draw.of(0.5, 5.0),
    )
    edges = [replace(_edge(draw, 0), drafts=True) for _ in range(num)]
    chats = [_chat(draw, i, draw.time_s(1.0), prompt=draw.prompt(15, 16, 17, 60)) for i in range(num)]
    faults: list[Fault] = []
    for _ in range(draw.of(0, 1, 2)):
        kind = draw.of(Leave, EdgeCrash, AbortAll, EngineStall)
        faults.append(_of_kind(draw, kind, num, num, 1))
    return _plan((server,), edges, chats, faults)


def silent(draw: _Draw) -> Plan:
    """Lines that die without a word, one way or both, some while few connections are allowed."""
    num = draw.of(1, 2)
    places = draw.of(num, 1024)
    edges = [
        replace(_edge(draw, 0), link=LinkPlan(delay_s=draw.of(0.005, 0.025)), drafts=True) for _ in range(num)
    ]
    chats = [_chat(draw, i, 0.0, plain=True) for i in range(num)]
    if draw.chance(0.3):
        chats.append(_chat(draw, 0, draw.of(8.0, 45.0), plain=True))
    faults: list[Fault] = []
    for _ in range(draw.of(1, 1, 2)):
        kind = draw.of(NatForgets, NatForgets, Blackhole, Blackhole, Stall)
        faults.append(_of_kind(draw, kind, num, len(chats), 1))
    server = ServerPlan(step=StepCost(base_s=draw.of(0.015, 0.065)), max_sessions=places)
    return _plan((server,), edges, chats, faults)


def hostile(draw: _Draw) -> Plan:
    """A server or clients that break the protocol, beside honest edges."""
    num = draw.of(1, 2)
    edges = [_edge(draw, 0) for _ in range(num)]
    chats = [_chat(draw, i, draw.time_s(1.0), plain=True) for i in range(num)]
    faults = [
        _of_kind(draw, draw.of(ServerLies, EdgeLies, EdgeLies), num, num, 1) for _ in range(draw.of(1, 1, 2))
    ]
    if draw.chance(0.3):  # legal, and no text shows that it is counted twice
        faults.append(ServerLies(edge=0, connection=0, frame=draw.of(3, 4, 5, 9), lie=ServerLie.REPLAY))
    return _plan((_server(draw),), edges, chats, faults)


def slow_drafts(draw: _Draw) -> Plan:
    """Draft models that take seconds, fail, or have no room; long silences between chats."""
    edge = replace(
        _edge(draw, 0),
        draft=DraftCost(call_s=draw.of(0.15, 1.0, 3.0), token_s=draw.of(0.0, 0.01)),
        context_length=draw.of(512, 512, 80, 40),
        max_sequences=draw.of(4, 2, 1),
    )
    chats = []
    start_s = 0.0
    for _ in range(draw.of(1, 2)):
        chat = _chat(draw, 0, start_s, plain=True)
        num_tokens = min(chat.sampling.max_tokens, draw.of(5, 20))
        chats.append(replace(chat, sampling=replace(chat.sampling, max_tokens=num_tokens)))
        start_s += draw.of(0.0, 45.0, 310.0)
    faults: list[Fault] = []
    for _ in range(draw.of(0, 1, 2)):
        kind = draw.of(DraftFails, Reset, Leave, NatForgets)
        faults.append(_of_kind(draw, kind, 1, len(chats), 1))
    return _plan((_server(draw),), [edge], chats, faults, deadline_s=3000.0)


# -- parts --------------------------------------------------------------------------------


def _plan(
    servers: tuple[ServerPlan, ...],
    edges: Sequence[EdgePlan],
    chats: Sequence[Chat],
    faults: Sequence[Fault],
    deadline_s: float = 900.0,
) -> Plan:
    places = [sum(edges[chat.edge].server == i for chat in chats) for i in range(len(servers))]
    return Plan(
        seed=0,
        edges=tuple(edges),
        chats=tuple(chats),
        servers=tuple(
            replace(server, max_sessions=max(server.max_sessions, num))
            for server, num in zip(servers, places, strict=True)
        ),
        faults=tuple(faults),
        deadline_s=deadline_s,
    )


def _server(draw: _Draw) -> ServerPlan:
    return ServerPlan(
        step=StepCost(base_s=draw.of(0.005, 0.015, 0.065), context_s=draw.of(0.0, 0.0, 1e-6)),
        num_blocks=draw.of(200, 200, 40, 24),
        max_num_seqs=draw.of(8, 8, 2),
        max_draft=draw.of(16, 16, 8),
        service_s=draw.of(0.0, 0.0, 0.0005),
        max_sessions=draw.of(1024, 1024, 4),
    )


def _edge(draw: _Draw, server: int) -> EdgePlan:
    parameters = PolicyParameters(
        patience_ms=draw.of(50, 500, 500, 2000),
        max_ahead=draw.of(4, 16, 16, 32),
        max_window=draw.of(4, 12, 12),
        sequence_threshold=draw.of(0.1, 0.1, 0.5),
        token_threshold=draw.of(0.05, 0.25, 0.6),
    )
    return EdgePlan(
        server=server,
        link=LinkPlan(
            delay_s=draw.of(0.0005, 0.01, 0.025, 0.1, 0.3),
            bytes_s=draw.of(2.5e6, 2.5e5, 1e4),
            jitter_s=draw.of(0.0, 0.005, 0.05),
        ),
        draft=DraftCost(
            call_s=draw.of(0.004, 0.02, 0.043, 0.15),
            token_s=draw.of(0.0, 0.001, 0.01),
        ),
        agreement=draw.of(0.3, 0.75, 0.75, 0.9, 1.0),
        drafts=draw.chance(0.95),
        fallback=draw.of(*Fallback),
        parameters=parameters,
        warm=draw.chance(0.2),
    )


def _chat(
    draw: _Draw,
    edge: int,
    start_s: float,
    *,
    mode: SessionMode | None = None,
    plain: bool = False,
    prompt: tuple[int, ...] | None = None,
) -> Chat:
    """`plain`: at the agent, and without parameters besides the temperature."""
    prompt = prompt or draw.prompt(3, 15, 16, 17, 60)
    api = Api.AGENT if plain else draw.weighted({Api.AGENT: 8, Api.COMPLETIONS: 1, Api.CHAT: 1})
    has_form = not plain and draw.chance(0.08)
    sampling = _form(draw) if has_form else _sampling(draw, prompt, plain=plain or api is not Api.AGENT)
    chat = Chat(
        prompt=prompt,
        sampling=sampling,
        edge=edge,
        start_s=start_s,
        mode=mode or draw.of(*SessionMode),
        policy=draw.of(*["adaptive"] * 5, "pipesd", "edgellm", "hsl", "vanilla"),
        route=Route.COLLABORATIVE if plain or draw.chance(0.97) else Route.LOCAL,
        api=api,
    )
    is_targets = chat.api is not Api.AGENT and chat.route is not Route.LOCAL
    if is_targets and sampling.temperature and not has_form:
        return replace(chat, n=draw.of(1, 2, 3))
    return chat


def _sampling(draw: _Draw, prompt: tuple[int, ...], *, plain: bool) -> Sampling:
    max_tokens = draw.of(1, 2, 20, 48, 64, 64, 100)
    temperature = draw.of(0.0, 0.0, 0.0, 0.7, 1.0)
    fields: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": draw.chance(0.8)}
    if temperature:
        fields |= {"temperature": temperature, "seed": draw.rng.getrandbits(40)}
    if not plain:
        for part in _PARTS:
            if draw.chance(0.1):
                fields |= part(draw)
        if draw.chance(0.15):
            text = reference("target", prompt, Sampling(**fields))
            fields["stop_token_ids"] = [draw.of(*text)]
        if draw.chance(0.1):
            fields["min_tokens"] = min(max_tokens, draw.of(1, 5, 30))
    return Sampling(**fields)


def _form(draw: _Draw) -> Sampling:
    """A form that the answer must have, and nothing besides: what else shapes logits may leave no token."""
    seed = draw.of(None, draw.rng.getrandbits(40))
    return Sampling(
        max_tokens=draw.of(20, 64),
        temperature=0.0 if seed is None else 0.7,
        seed=seed,
        structure=draw.of(*_FORMS),
    )


_FORMS: Final = (
    Structure(StructureKind.CHOICE, '["yes", "no", "perhaps not"]'),
    Structure(StructureKind.REGEX, "([a-f]{2,9}, ){3,12}[a-f]+"),
    Structure(
        StructureKind.JSON_SCHEMA,
        '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, '
        '"size": {"type": "integer"}}, "required": ["name", "size"], "additionalProperties": false}',
    ),
)
_PARTS: Final[tuple[Callable[[_Draw], dict[str, Any]], ...]] = (
    lambda draw: {"top_p": draw.of(0.5, 0.9)},
    lambda draw: {"top_k": draw.of(1, 5, 40)},
    lambda draw: {"min_p": draw.of(0.05, 0.2)},
    lambda draw: {"presence_penalty": draw.of(-1.0, 0.5, 2.0)},
    lambda draw: {"frequency_penalty": draw.of(-0.5, 1.0)},
    lambda draw: {"repetition_penalty": draw.of(0.8, 1.3)},
    lambda draw: {"logit_bias": {draw.rng.randrange(_FIRST_WORD, VOCAB_SIZE): draw.of(-5.0, 3.0)}},
    lambda draw: {"allowed_token_ids": [EOS_ID, *range(_FIRST_WORD, _FIRST_WORD + 200)]},
)


_KINDS: Final[dict[type[Fault], int]] = {
    Reset: 5,
    Stall: 2,
    Blackhole: 3,
    NatForgets: 2,
    Refuse: 1,
    Unauthorized: 1,
    Overload: 1,
    Restart: 2,
    EngineDeath: 1,
    AbortAll: 1,
    EngineStall: 1,
    Leave: 2,
    EdgeCrash: 1,
    DraftFails: 1,
    ServerLies: 1,
    EdgeLies: 1,
}


def _fault(draw: _Draw, num_edges: int, num_chats: int, num_servers: int) -> Fault:
    return _of_kind(draw, draw.weighted(_KINDS), num_edges, num_chats, num_servers)


def _of_kind(draw: _Draw, kind: Any, num_edges: int, num_chats: int, num_servers: int) -> Fault:
    """A fault of the class `kind`: at an edge, a chat or a server of so many."""
    edge, server = draw.rng.randrange(num_edges), draw.rng.randrange(num_servers)
    at_s = draw.early_s()
    for_s = draw.of(0.05, 0.5, 2.5, 4.0, 9.0, 15.0, 45.0)
    short_s = min(for_s, 4.0)
    side = draw.of(*Side)
    connection, after = draw.rng.randrange(3), draw.of(1, 2, 3, 4, 5, 8, 12, 20, 40)
    made: dict[type[Fault], Fault] = {
        Reset: Reset(edge=edge, connection=connection, side=draw.of(*_SIDES), after=after),
        Stall: Stall(edge=edge, at_s=at_s, for_s=for_s, side=side),
        Blackhole: Blackhole(edge=edge, at_s=at_s, for_s=for_s, side=side),
        NatForgets: NatForgets(edge=edge, at_s=at_s),
        Refuse: Refuse(edge=edge, at_s=at_s, for_s=for_s),
        Unauthorized: Unauthorized(server=server, at_s=at_s, for_s=short_s),
        Overload: Overload(server=server, at_s=at_s, for_s=for_s),
        Restart: Restart(server=server, at_s=at_s, down_s=short_s, target=draw.of(None, OTHER_TARGET)),
        EngineDeath: EngineDeath(server=server, at_s=at_s, down_s=short_s),
        AbortAll: AbortAll(server=server, at_s=at_s),
        EngineStall: EngineStall(server=server, at_s=at_s, for_s=min(for_s, 15.0)),
        Leave: Leave(chat=draw.rng.randrange(num_chats), at_s=at_s),
        EdgeCrash: EdgeCrash(edge=edge, at_s=at_s),
        DraftFails: DraftFails(edge=edge, call=draw.of(1, 5, 40)),
        ServerLies: ServerLies(
            edge=edge, connection=draw.of(0, 0, 1), frame=draw.of(1, 2, 3, 5, 9, 20), lie=draw.of(*ServerLie)
        ),
        EdgeLies: EdgeLies(server=server, lie=draw.of(*EdgeLie), at_s=at_s, for_s=min(for_s, 15.0)),
    }
    return made[kind]
