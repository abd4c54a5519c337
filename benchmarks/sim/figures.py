"""Figures of fault-free plans, kept in a file: whatever changes the product's speed or thrift changes one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.sim.outcome import Outcome
from benchmarks.sim.plan import Chat, DraftCost, EdgePlan, LinkPlan, Plan, ServerPlan, StepCost
from edge_agent.api import SessionMode
from pipesd_vllm.wire import Sampling

__all__ = ["FILE", "Figures", "changes", "figures_of", "golden_plans", "read_golden", "write_golden"]

FILE: Final = Path("tests/simulation/golden.json")
"""From the repository's root."""
_TOKENS: Final = 64
_PROMPT_LEN: Final = 20


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan without faults costs, all its chats together."""

    seconds: float
    """Virtual: the chats' times added up, to the microsecond."""
    tokens: int
    passes: int
    drafts_sent: int
    drafts_verified: int
    drafts_accepted: int
    bytes_up: int
    bytes_down: int


def golden_plans() -> dict[str, Plan]:
    """The plans by name."""
    plans: dict[str, Plan] = {}
    costs = [(65, 50, 4), (65, 50, 43), (15, 30, 4), (15, 30, 43), (15, 50, 150), (30, 100, 20)]
    for number, ((step_ms, rtt_ms, draft_ms), mode) in enumerate(product(costs, SessionMode)):
        name = f"{mode} step {step_ms} rtt {rtt_ms} draft {draft_ms}"
        plans[name] = _plan(number, step_ms, rtt_ms, draft_ms, [mode])
    for number, (policy, mode) in enumerate(
        product(["pipesd", "edgellm", "hsl", "vanilla"], [SessionMode.BALANCED, SessionMode.OFFLOAD])
    ):
        plans[f"{mode} {policy}"] = _plan(100 + number, 30, 50, 20, [mode], policy=policy)
    for number, temperature in enumerate([0.7, 1.0]):
        for mode in SessionMode:
            name = f"{mode} temperature {temperature:g}"
            plans[name] = _plan(200 + number, 30, 50, 20, [mode], temperature=temperature)
    for num_edges in (2, 4):
        modes = [list(SessionMode)[i % 3] for i in range(num_edges)]
        plans[f"{num_edges} edges"] = _plan(300 + num_edges, 30, 50, 20, modes)
        plans[f"{num_edges} edges, 2 seats"] = _plan(310 + num_edges, 30, 50, 20, modes, max_num_seqs=2)
        plans[f"{num_edges} edges, 24 blocks"] = _plan(320 + num_edges, 30, 50, 20, modes, num_blocks=24)
    waiting = [SessionMode.OFFLOAD] * 4
    plans["4 edges that wait, 1 seat"] = _plan(330, 15, 100, 43, waiting, max_num_seqs=1)
    plans["balanced, good drafts"] = _plan(400, 30, 50, 4, [SessionMode.BALANCED], agreement=0.95)
    plans["balanced, bad drafts"] = _plan(401, 30, 50, 4, [SessionMode.BALANCED], agreement=0.3)
    return plans


def _plan(
    seed: int,
    step_ms: float,
    rtt_ms: float,
    draft_ms: float,
    modes: list[SessionMode],
    *,
    policy: str = "adaptive",
    temperature: float = 0.0,
    agreement: float = 0.75,
    max_num_seqs: int = 8,
    num_blocks: int = 200,
) -> Plan:
    """An edge for each of `modes`, each with one chat."""
    rng = random.Random(f"golden/{seed}")
    edge = EdgePlan(
        link=LinkPlan(delay_s=rtt_ms / 2e3), draft=DraftCost(call_s=draft_ms / 1e3), agreement=agreement
    )
    sampling = Sampling(
        max_tokens=_TOKENS, temperature=temperature, seed=seed if temperature else None, ignore_eos=True
    )
    chats = tuple(
        Chat(
            edge=i,
            start_s=0.1 * i,
            prompt=tuple(rng.randrange(10, 1010) for _ in range(_PROMPT_LEN)),
            sampling=sampling,
            mode=mode,
            policy=policy,
        )
        for i, mode in enumerate(modes)
    )
    server = ServerPlan(step=StepCost(base_s=step_ms / 1e3), max_num_seqs=max_num_seqs, num_blocks=num_blocks)
    return Plan(seed=seed, edges=(edge,) * len(modes), chats=chats, servers=(server,), settle_s=0.0)


def figures_of(outcome: Outcome) -> Figures:
    """Added up over the chats of `outcome`."""
    stats = [chat.stats for chat in outcome.chats if chat.stats is not None]
    return Figures(
        seconds=round(sum(chat.took_s or 0.0 for chat in outcome.chats), 6),
        tokens=sum(len(chat.tokens) for chat in outcome.chats),
        passes=sum(chat.target_passes for chat in outcome.chats),
        drafts_sent=sum(s.draft_tokens_sent for s in stats),
        drafts_verified=sum(s.draft_tokens_verified for s in stats),
        drafts_accepted=sum(s.draft_tokens_accepted for s in stats),
        bytes_up=outcome.bytes_up,
        bytes_down=outcome.bytes_down,
    )


def read_golden(file: Path) -> dict[str, Figures]:
    """The kept figures by the plan's name. Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Figures])


def write_golden(file: Path, figures: Mapping[str, Figures]) -> None:
    """One line a plan, so that a change is seen in a difference of two versions."""
    lines = [
        f" {msgspec.json.encode(name).decode()}: {msgspec.json.encode(f).decode()}"
        for name, f in figures.items()
    ]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def changes(kept: Figures, now: Figures) -> list[str]:
    """What differs, in words; times are equal within a millionth."""
    found = []
    for name in Figures.__struct_fields__:
        a, b = getattr(kept, name), getattr(now, name)
        if abs(a - b) > 1e-6 * max(abs(a), abs(b), 1.0):
            found.append(f"{name} {a:g} -> {b:g}")
    return found
