"""How many users a server carries: edges beside plain clients, all busy, on virtual time.

Every client asks its next question when it has the answer to the one before. Rates are those of the time in
which all of them are busy. vLLM's n-gram speculation is replayed over the same recorded texts and steps: it
has no network in it, so that its figures are what the server could give at best.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import msgspec
import numpy as np

from benchmarks.sim.agreements import read_pair
from benchmarks.sim.costs import Costs
from benchmarks.sim.models import ReplayedAnswer, recorded_name, replayed
from benchmarks.sim.plan import Chat, EdgeLie, EdgeLies, EdgePlan, LinkPlan, Plan, ServerPlan
from benchmarks.sim.world import run
from edge_agent.api import SessionMode
from pipesd_vllm.fill_in import MAX_DRAFTS
from pipesd_vllm.wire import Sampling, common_prefix_length

__all__ = ["Crowd", "Row", "Way", "jain", "measured"]

_CONTEXT: Final = 1024
_SPREAD_STEPS: Final = 20
"""The clients begin within the time of so many steps."""
_BYTES_S: Final = 2.5e6
_DEADLINE_S: Final = 3600.0
_NGRAM: Final = (5, 2, 8)
"""Longest and shortest match, and drafts: those of `pipesd serve --fill-in ngram`."""


class Way(enum.StrEnum):
    """How the edges' answers are made; plain clients are always streamed to."""

    PLAIN = "plain"
    """As those of plain clients."""
    NGRAM = "n-gram"
    """By vLLM's own speculation, on the server and for all."""
    ALL_DRAFTS = "no budget"
    """By us, and all drafts are verified."""
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class Crowd:
    """`edges` beside `plain` clients and `junk` edges that send wrong drafts, each with `turns` answers."""

    costs: Costs
    costs_name: str
    edges: int
    plain: int = 0
    junk: int = 0
    rtt_s: float = 0.03
    draft_s: float = 0.004
    mode: SessionMode = SessionMode.AUTO
    turns: int = 3
    pair: str = "minus-3-layers"
    equal: bool = False
    """All clients ask the same questions in the same order, so that what they get can be compared."""

    def answers(self) -> list[ReplayedAnswer]:
        """Those of the record that the clients ask for, one after the other."""
        recorded = zip(read_pair(self.pair).answers, replayed(self.pair), strict=True)
        return [answer for said, answer in recorded if said.temperature == 0.0 and len(answer.tokens) > 1]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One crowd served in one way. Rates in tokens a second, times in ms; passes and drafts are a token's."""

    costs: str
    edges: int
    plain: int
    junk: int
    rtt_ms: float
    draft_ms: float
    mode: str
    way: str
    tokens_per_s: float
    edge_tokens_per_s: float
    """Of an edge, in the mean."""
    plain_tokens_per_s: float
    """Of a plain client, in the mean; 0 if there is none."""
    jain: float
    """Over the edges; 1 is an equal share for each."""
    tpt_p50_ms: float
    tpt_p95_ms: float
    """Of the edges' answers."""
    ttft_p95_ms: float
    step_ms: float
    """Mean time between the engine's steps while all were busy."""
    passes_per_token: float
    drafted_per_token: float


def jain(rates: Sequence[float]) -> float:
    """Jain's index of fairness: 1 for equal rates, 1/n if one of n has all."""
    squares = sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / (len(rates) * squares) if squares else 1.0


def measured(crowd: Crowd, way: Way, seed: int = 0) -> Row:
    """`crowd` served in one way. Raises `RuntimeError` for a run that did not come to its end."""
    return _ngram(crowd) if way is Way.NGRAM else _simulated(crowd, way, seed)


def plan_of(crowd: Crowd, way: Way, seed: int = 0) -> Plan:
    """Clients are edges, the plain ones without drafts; chat number i is answer `i % turns` of its client."""
    answers, rng = crowd.answers(), random.Random(crowd.edges * 1009 + crowd.plain)
    link = LinkPlan(delay_s=crowd.rtt_s / 2, bytes_s=_BYTES_S, down_bytes_s=10 * _BYTES_S)
    edge = EdgePlan(
        link=link,
        draft=crowd.costs.draft(crowd.draft_s),
        agreement=0.7,
        agreement_seed=0,
        context_length=_CONTEXT,
        warm=True,
    )
    plain = msgspec.structs.replace(edge, drafts=False, lookup=False)
    edges = (plain if way is Way.PLAIN else edge,) * crowd.edges + (plain,) * crowd.plain
    spread_s = _SPREAD_STEPS * crowd.costs.step.seconds(1, 0)
    chats: list[Chat] = []
    for client in range(len(edges)):
        for turn in range(crowd.turns):
            place = turn if crowd.equal else client + turn * len(edges)
            answer = answers[place % len(answers)]
            drafts = edges[client] is edge
            chats.append(
                Chat(
                    edge=client,
                    prompt=answer.prompt,
                    sampling=Sampling(max_tokens=len(answer.tokens), ignore_eos=True),
                    mode=crowd.mode if drafts else SessionMode.LATENCY,
                    start_s=0.0 if turn else 1.0 + spread_s * rng.random(),
                    after=len(chats) - 1 if turn else None,
                )
            )
    longest = max(len(answer.prompt) + len(answer.tokens) for answer in answers) + MAX_DRAFTS
    server = ServerPlan(
        target=recorded_name(crowd.pair),
        step=crowd.costs.step,
        num_blocks=(len(edges) + crowd.junk + 4) * -(-longest // 16) + 64,
        max_num_seqs=max(crowd.costs.max_num_seqs, 2 * (len(edges) + crowd.junk)),
        max_draft=MAX_DRAFTS,
        async_scheduling=crowd.costs.async_scheduling,
        service_s=crowd.costs.front_s / 2,
        budget=way is Way.OURS,
    )
    lies = [EdgeLies(lie=EdgeLie.WRONG_DRAFTS, at_s=0.5, for_s=_DEADLINE_S) for _ in range(crowd.junk)]
    return Plan(
        seed=seed,
        servers=(server,),
        edges=edges,
        chats=tuple(chats),
        faults=tuple(lies),
        deadline_s=_DEADLINE_S,
        settle_s=0.0,
    )


def _simulated(crowd: Crowd, way: Way, seed: int) -> Row:
    plan = plan_of(crowd, way, seed)
    outcome = run(plan)
    if outcome.problems:
        raise RuntimeError(f"{crowd}, {way}: {outcome.problems[0]}")
    clients: list[list[list[float]]] = []
    """By client and answer: when its tokens came."""
    for number, chat in enumerate(outcome.chats):
        if chat.end.finish_reason != "length" or chat.stats is None:
            raise RuntimeError(f"{crowd}, {way}, chat {number}: {chat.end}")
        if number % crowd.turns == 0:
            clients.append([])
        clients[-1].append([token.at_s for token in chat.tokens])
    edges = outcome.chats[: crowd.edges * crowd.turns]
    num_tokens = sum(len(chat.tokens) for chat in edges)
    begun_s = max(own[0][0] for own in clients)
    ended_s = min(own[-1][-1] for own in clients)
    ttft_s = [chat.first_s - chat.started_s for chat in edges if chat.first_s is not None]
    return _row(
        crowd,
        way,
        clients,
        (begun_s, ended_s),
        ttft_s,
        step_s=outcome.virtual_s / max(1, outcome.steps),
        passes=sum(chat.stats.target_passes for chat in edges if chat.stats) / num_tokens,
        drafted=sum(chat.stats.draft_tokens_verified for chat in edges if chat.stats) / num_tokens,
    )


def _row(
    crowd: Crowd,
    way: Way,
    clients: Sequence[Sequence[Sequence[float]]],
    busy_s: tuple[float, float],
    ttft_s: Sequence[float],
    *,
    step_s: float,
    passes: float,
    drafted: float,
) -> Row:
    begun_s, ended_s = busy_s
    if ended_s <= begun_s:
        raise RuntimeError(f"{crowd}, {way}: not all clients were busy at one time; give them more turns")
    rates = [
        sum(begun_s < at_s <= ended_s for answer in own for at_s in answer) / (ended_s - begun_s)
        for own in clients
    ]
    of_edges = rates[: crowd.edges]
    tpt_ms = [
        (answer[-1] - answer[0]) * 1e3 / (len(answer) - 1) for own in clients[: crowd.edges] for answer in own
    ]
    return Row(
        costs=crowd.costs_name,
        edges=crowd.edges,
        plain=crowd.plain,
        junk=crowd.junk,
        rtt_ms=crowd.rtt_s * 1e3,
        draft_ms=crowd.draft_s * 1e3,
        mode=str(crowd.mode),
        way=str(way),
        tokens_per_s=round(sum(rates), 2),
        edge_tokens_per_s=round(fmean(of_edges), 3),
        plain_tokens_per_s=round(fmean(rates[crowd.edges :] or [0.0]), 3),
        jain=round(jain(of_edges), 4),
        tpt_p50_ms=_percentile(tpt_ms, 50),
        tpt_p95_ms=_percentile(tpt_ms, 95),
        ttft_p95_ms=_percentile([s * 1e3 for s in ttft_s] or [0.0], 95),
        step_ms=round(step_s * 1e3, 3),
        passes_per_token=round(passes, 4),
        drafted_per_token=round(drafted, 4),
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(float(np.percentile(values, percent, method="inverted_cdf")), 3)


# -- vLLM's n-gram speculation ------------------------------------------------------------


class _Ngrams:
    """What followed the longest run of last tokens where it first stood, as vLLM proposes it."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._first: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        longest, shortest, _ = _NGRAM
        self._tokens.append(token)
        end = len(self._tokens)
        for length in range(shortest, min(longest, end) + 1):
            self._first.setdefault(tuple(self._tokens[end - length :]), end)

    def propose(self) -> Sequence[int]:
        longest, shortest, most = _NGRAM
        end = len(self._tokens)
        for length in range(min(longest, end), shortest - 1, -1):
            at = self._first[tuple(self._tokens[end - length :])]
            if at < end:
                return self._tokens[at : at + most]
        return ()


@dataclass(slots=True)
class _Streamed:
    """One client of the n-gram server."""

    left: list[ReplayedAnswer]
    came_s: list[list[float]]
    ngrams: _Ngrams | None = None
    done: int = 0


def _ngram(crowd: Crowd) -> Row:
    """Steps in which every client takes part, prompts computed with the first token."""
    answers = crowd.answers()
    number = crowd.edges + crowd.plain
    clients = [
        _Streamed(
            [
                answers[(turn if crowd.equal else at + turn * number) % len(answers)]
                for turn in range(crowd.turns)
            ],
            [],
        )
        for at in range(number)
    ]
    now_s, steps, passes, num_drafts, num_tokens = 0.0, 0, 0, 0, 0
    busy = list(clients)
    while busy:
        rows = context = 0
        proposed: list[Sequence[int]] = []
        for client in busy:
            answer = client.left[0]
            if client.ngrams is None:
                client.ngrams = _Ngrams(answer.prompt)
                client.came_s.append([])
                client.done = 0
                proposed.append(())
                rows += len(answer.prompt)
            else:
                proposed.append(client.ngrams.propose())
                rows += 1 + len(proposed[-1])
                passes += 1
                num_drafts += len(proposed[-1])
            context += len(answer.prompt) + client.done
        now_s += crowd.costs.step.seconds(rows, context)
        steps += 1
        for client, drafts in zip(busy, proposed, strict=True):
            truth = client.left[0].tokens[client.done :]
            new = truth[: 1 + common_prefix_length(list(drafts), list(truth))]
            num_tokens += len(new)
            client.done += len(new)
            client.came_s[-1] += [now_s] * len(new)
            assert client.ngrams is not None
            for token in new:
                client.ngrams.append(token)
            if client.done == len(client.left[0].tokens):
                client.left.pop(0)
                client.ngrams = None
        busy = [client for client in busy if client.left]
    times = [client.came_s for client in clients]
    busy_s = max(own[0][0] for own in times), min(own[-1][-1] for own in times)
    return _row(
        crowd,
        Way.NGRAM,
        times,
        busy_s,
        (),
        step_s=now_s / steps,
        passes=passes / num_tokens,
        drafted=num_drafts / num_tokens,
    )
