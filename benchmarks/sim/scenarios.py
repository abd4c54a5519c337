"""The testbed's scenarios as plans: one server, edges alike, recorded prompts one after the other. Pure."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from benchmarks.harness.rivals import CLOUD, DEFAULT_PARAMETERS, Rival, rival_parameters
from benchmarks.netlink.model import LinkSpec
from benchmarks.scenarios.loading import Scenario
from benchmarks.sim.costs import Costs
from benchmarks.sim.models import ReplayedAnswer, recorded_name
from benchmarks.sim.plan import Chat, EdgePlan, LinkPlan, Plan, ServerPlan
from edge_agent.api import SessionMode
from edge_agent.control.policies.registry import DEFAULT_POLICY, Task
from pipesd_vllm.fill_in import MAX_DRAFTS
from pipesd_vllm.wire import Sampling

__all__ = ["Cell", "Sources", "plan_of"]

_ENDLESS_BYTES_S: Final = 1e10
_BLOCK_SIZE: Final = 16
_CONTEXT: Final = 1024
"""Of the draft models, a sequence."""
_BETWEEN_S: Final = 30.0
_MOST_S_A_TOKEN: Final = 2.0
_SPREAD_S: Final = 1.0


class Sources(enum.StrEnum):
    """Where an edge's drafts come from."""

    BOTH = "both"
    MODEL = "model"
    LOOKUP = "lookup"
    """An edge without a draft model."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place to compare in: a scenario with a server's costs, and some answers of a recorded pair.

    Each of `num_edges` edges asks one answer after the other, as many as give every prompt a turn; the edges
    begin each round within a second.
    """

    scenario: Scenario
    costs: Costs
    costs_name: str
    pair: str
    category: str
    answers: tuple[ReplayedAnswer, ...]
    num_edges: int = 1
    seen: bool = False
    """Every prompt is in the server's prefix cache, as in the testbed."""

    @property
    def name(self) -> str:
        """Scenario and costs, and the number of edges if there are several."""
        many = f" x{self.num_edges}" if self.num_edges > 1 else ""
        return f"{self.scenario.name} {self.costs_name}{many}"

    @property
    def task(self) -> Task:
        """What parameters of the literature go by."""
        return "maths" if self.category == "maths" else "code"

    def asked(self) -> list[tuple[int, int, ReplayedAnswer]]:
        """Edge, round and answer of each chat."""
        num_rounds = -(-len(self.answers) // self.num_edges)
        return [
            (edge, number, self.answers[(edge + number * self.num_edges) % len(self.answers)])
            for number in range(num_rounds)
            for edge in range(self.num_edges)
        ]


def plan_of(cell: Cell, rival: Rival, seed: int = 0, sources: Sources = Sources.BOTH) -> Plan:
    """`rival` in `cell`, drafting from `sources`; plain streaming is an edge that has none.

    Chats are those of `cell.asked()`, in its order; what comes after them belongs to no rival.
    """
    is_streaming = rival.policy == CLOUD
    asked = cell.asked()
    longest = max(len(answer.tokens) for answer in cell.answers)
    round_s = _BETWEEN_S + _MOST_S_A_TOKEN * longest
    rng = random.Random(f"{cell.name} {cell.category}")  # the same for all rivals
    begin_s = 1.0 + (_BETWEEN_S if cell.seen else 0.0)
    starts_s = [begin_s + number * round_s + _SPREAD_S * rng.random() for _, number, _ in asked]
    edge = EdgePlan(
        link=_link(cell.scenario),
        draft=cell.costs.draft(cell.scenario.gamma_ms / 1e3),
        agreement=_agreement(cell.answers),
        agreement_seed=0,
        drafts=not is_streaming and sources is not Sources.LOOKUP,
        lookup=not is_streaming and sources is not Sources.MODEL,
        context_length=_CONTEXT,
        parameters=rival_parameters(rival.policy, DEFAULT_PARAMETERS, cell.task),
        warm=True,
    )
    chats = [
        Chat(
            edge=number,
            prompt=answer.prompt,
            sampling=Sampling(max_tokens=len(answer.tokens), ignore_eos=True),
            mode=rival.mode or SessionMode.LATENCY,
            policy=DEFAULT_POLICY if is_streaming else rival.policy,
            start_s=start_s,
        )
        for (number, _, answer), start_s in zip(asked, starts_s, strict=True)
    ]
    if cell.seen:
        chats += [
            Chat(prompt=answer.prompt, sampling=Sampling(max_tokens=1), mode=SessionMode.LATENCY)
            for answer in cell.answers
        ]
    server = ServerPlan(
        target=recorded_name(cell.pair),
        step=cell.costs.step,
        num_blocks=_num_blocks(cell),
        max_num_seqs=cell.costs.max_num_seqs,
        max_draft=MAX_DRAFTS,
        async_scheduling=cell.costs.async_scheduling,
        service_s=cell.costs.front_s / 2,
    )
    return Plan(
        seed=seed,
        servers=(server,),
        edges=(edge,) * cell.num_edges,
        chats=tuple(chats),
        deadline_s=begin_s + 1.0 + round_s * (1 + asked[-1][1]),
        settle_s=0.0,
    )


def _link(scenario: Scenario) -> LinkPlan:
    up, down = scenario.up, scenario.down
    return LinkPlan(
        delay_s=fmean((up.delay_ms, down.delay_ms)) / 1e3,
        bytes_s=_bytes_s(up),
        down_bytes_s=_bytes_s(down),
        loss=max(up.loss, down.loss),
        up_bytes_s=tuple(mbit * 1e6 / 8 for mbit in up.mbit_trace),
        up_step_s=up.trace_step_s,
    )


def _bytes_s(spec: LinkSpec) -> float:
    return _ENDLESS_BYTES_S if spec.mbit is None else spec.mbit * 1e6 / 8


def _agreement(answers: Sequence[ReplayedAnswer]) -> float:
    """For what the draft says where the record ends."""
    right = [
        draft.token_id == token
        for answer in answers
        for draft, token in zip(answer.drafts, answer.tokens, strict=True)
    ]
    return min(0.99, fmean(right))


def _num_blocks(cell: Cell) -> int:
    """Room for all that is under way, and for the prompts of a few rounds."""
    longest = max(len(answer.prompt) + len(answer.tokens) + MAX_DRAFTS for answer in cell.answers)
    return (cell.num_edges + 4) * -(-longest // _BLOCK_SIZE) + 64
