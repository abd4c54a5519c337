"""`pipesd bench load --edges N`: edges beside plain clients on a real server, and the same crowd streamed to.

An edge is the product's agent with its real session, drafting thread and connection; its draft model sleeps
for as long as a token takes and says the target's own token as often as `agreement` has it. What the target
says is asked of the server before. Rounds of the compared ways take turns.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from statistics import fmean, median
from typing import Any, Final

import numpy as np

from benchmarks.harness.agent import running_agent
from benchmarks.harness.clients import Client, connected, exactly
from benchmarks.harness.processes import process_cpu_s
from benchmarks.harness.rivals import Rival, Wire
from benchmarks.harness.session import opened, welcome
from benchmarks.netlink.proxy import delayed_link
from benchmarks.reports.ratios import Interval, ratio
from edge_agent.agent import EdgeAgent, cloud_connector, policy_parameters
from edge_agent.api import GenerationRequest, Sampling
from edge_agent.control import FixedParameters
from edge_agent.control.policies.registry import DEFAULT_POLICY
from edge_agent.drafting import DraftThread
from edge_agent.sampling import DraftToken
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeDrafter
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Fingerprint

__all__ = ["CrowdPlan", "crowd_json", "describe_crowd", "run_crowd"]

PLAIN: Final = "plain"
PIPESD: Final = "pipesd"
AGAIN: Final = "plain again"
"""A/A: what the machine itself makes of it."""
WAYS: Final = (PLAIN, PIPESD, AGAIN)
_OURS: Final = Rival(DEFAULT_POLICY, Wire.THIN)
_CONFIDENCE: Final = 2.0
"""Concentration of the Beta distribution that drafts' confidences are drawn from."""


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """`edges` beside `plain` clients, each with `turns` answers of `tokens` tokens."""

    edges: int
    plain: int = 0
    turns: int = 2
    tokens: int = 64
    draft_ms: float = 8.0
    rtt_ms: float = 0.0
    agreement: float = 0.75
    arrivals_s: float | None = None
    """Questions a second that the clients ask in all, at random times; None: each after its last answer."""

    def prompt_of(self, client: int, turn: int, num_prompts: int) -> int:
        """Which prompt it is: the same in every round and way."""
        return (client + turn * (self.edges + self.plain)) % num_prompts

    def pauses_s(self, client: int) -> list[float]:
        """How long the client waits before each of its questions."""
        if self.arrivals_s is None:
            return [0.0] * self.turns
        rng = random.Random(client)
        return [rng.expovariate(self.arrivals_s / (self.edges + self.plain)) for _ in range(self.turns)]


@dataclass(frozen=True, slots=True)
class Known:
    """What the target says after a prompt."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as its client saw it, on one clock."""

    num_tokens: int
    started_s: float
    first_s: float
    last_s: float
    passes: int
    differs: bool = False

    @property
    def tpt_ms(self) -> float:
        return (self.last_s - self.first_s) * 1e3 / max(1, self.num_tokens - 1)


@dataclass(frozen=True, slots=True)
class CrowdRound:
    """One way's answers, by client, edges first."""

    clients: Sequence[Sequence[Answered]]
    num_edges: int
    wall_s: float
    cpu_s: Mapping[str, float]

    def figures(self) -> dict[str, float]:
        """Rates in tokens a second, times of the edges' answers in ms."""
        rates = [
            sum(a.num_tokens for a in own) / sum(a.last_s - a.started_s for a in own) for own in self.clients
        ]
        edges, beside = rates[: self.num_edges], rates[self.num_edges :]
        answers = [answer for own in self.clients[: self.num_edges] for answer in own]
        ttft_ms = [(answer.first_s - answer.started_s) * 1e3 for answer in answers]
        tpt_ms = [answer.tpt_ms for answer in answers]
        num_tokens = sum(a.num_tokens for own in self.clients for a in own)
        return {
            "tokens_per_s": num_tokens / self.wall_s,
            "jain": sum(edges) ** 2 / (len(edges) * sum(rate * rate for rate in edges)),
            "plain_tokens_per_s": fmean(beside) if beside else 0.0,
            **{f"ttft_p{p}_ms": _percentile(ttft_ms, p) for p in (50, 95, 99)},
            **{f"tpt_p{p}_ms": _percentile(tpt_ms, p) for p in (50, 95, 99)},
            "passes_per_token": sum(a.passes for a in answers) / sum(a.num_tokens for a in answers),
            "cpu_s": sum(self.cpu_s.values()),
            "differing": float(sum(answer.differs for own in self.clients for answer in own)),
        }


def _percentile(values: Sequence[float], percent: int) -> float:
    return float(np.percentile(values, percent, method="inverted_cdf"))


class AgreeingDrafter(FakeDrafter):
    """Says the target's token as often as its own confidence, a mean of `agreement`, has it."""

    def __init__(
        self, known: Sequence[Known], own: Fingerprint, agreement: float, seed: int, draft_s: float = 0.0
    ) -> None:
        """`own` is the vocabulary's, which it claims to share; a call takes `draft_s`."""
        self._own = own
        self._agreement = agreement
        self._seed = seed
        self._texts = {each.prompt: each.tokens for each in known}
        self._lengths = sorted({len(each.prompt) for each in known}, reverse=True)
        vocabulary = [""] * own.num_tokens
        super().__init__(self._say, vocabulary, context_length=4096, max_sequences=2, sleep_s=draft_s)

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        return self._own

    def _say(self, tokens: Sequence[int]) -> DraftToken:
        rng = random.Random(self._seed * 1_000_003 + len(tokens))
        agreement = self._agreement
        chance = agreement
        if 0.0 < agreement < 1.0:
            chance = rng.betavariate(_CONFIDENCE * agreement, _CONFIDENCE * (1.0 - agreement))
        confidence = max(0.01, chance)
        right = self._target_says(tokens)
        if right is not None and rng.random() < chance:
            return DraftToken(right, confidence)
        return DraftToken(((right or 0) + 1) % self._own.num_tokens, confidence)

    def _target_says(self, tokens: Sequence[int]) -> int | None:
        for length in self._lengths:
            text = self._texts.get(tuple(tokens[:length]))
            at = len(tokens) - length
            if text is not None and 0 <= at < len(text) and tuple(tokens[length:]) == text[:at]:
                return text[at]
        return None


async def run_crowd(
    settings: EdgeSettings,
    plan: CrowdPlan,
    repeats: int,
    texts: Sequence[str],
    pid: int | None,
    show: Callable[[str], None],
) -> dict[str, list[CrowdRound]]:
    """`repeats` rounds of each way, after one that is not counted. Raises `CliError`, `EdgeError`."""
    number = plan.edges + plan.plain
    async with AsyncExitStack() as stack:
        url = settings.cloud_url
        async with connected(url, settings.cloud_key, shared=number) as client:
            show("asking what the target says")
            wanted = {plan.prompt_of(c, t, len(texts)) for c in range(number) for t in range(plan.turns)}
            gate = asyncio.Semaphore(8)
            found = await asyncio.gather(
                *(_known(client, texts[n], plan.tokens, gate) for n in sorted(wanted))
            )
        known = dict(zip(sorted(wanted), found, strict=True))
        if plan.rtt_ms:
            url = await stack.enter_async_context(delayed_link(url, plan.rtt_ms / 1e3))
        near = settings.model_copy(update={"cloud_url": url})
        streaming = await stack.enter_async_context(connected(url, settings.cloud_key, shared=number))
        async with opened(cloud_connector(settings)) as transport:
            own = (await welcome(transport)).fingerprint
        edges = [
            await stack.enter_async_context(_edge(near, plan, list(known.values()), own, seed))
            for seed in range(plan.edges)
        ]
        rounds: dict[str, list[CrowdRound]] = {way: [] for way in WAYS}
        for repeat in range(repeats + 1):
            turn = repeat % len(WAYS)
            for way in (*WAYS[turn:], *WAYS[:turn]):
                show(f"{plan.edges} edges, {plan.plain} plain, {way}: round {repeat} of {repeats}")
                measured = await _round(plan, known, streaming, edges if way == PIPESD else [], pid)
                if repeat:
                    rounds[way].append(measured)
        return rounds


async def _known(client: Client, text: str, num_tokens: int, gate: asyncio.Semaphore) -> Known:
    async with gate:
        _, choice = await client.complete(text, {**exactly(num_tokens), "return_token_ids": True})
    return Known(tuple(choice["prompt_token_ids"]), tuple(choice["token_ids"]))


@asynccontextmanager
async def _edge(
    settings: EdgeSettings, plan: CrowdPlan, known: Sequence[Known], own: Fingerprint, seed: int
) -> AsyncIterator[EdgeAgent]:
    drafter = AgreeingDrafter(known, own, plan.agreement, seed, plan.draft_ms / 1e3)
    async with AsyncExitStack() as stack:
        worker = DraftThread(drafter)
        stack.push_async_callback(worker.close)
        parameters = FixedParameters(policy_parameters(settings))
        yield await stack.enter_async_context(running_agent(settings, worker, _OURS, parameters))


async def _round(
    plan: CrowdPlan,
    known: Mapping[int, Known],
    streaming: Client,
    edges: Sequence[EdgeAgent],
    pid: int | None,
) -> CrowdRound:
    numbers = count()

    async def client(place: int) -> list[Answered]:
        answers = []
        for turn, pause_s in enumerate(plan.pauses_s(place)):
            await asyncio.sleep(pause_s)
            asked = known[sorted(known)[plan.prompt_of(place, turn, len(known))]]
            if place < len(edges):
                answers.append(await _drafted(edges[place], asked, f"crowd-{place}-{next(numbers)}"))
            else:
                answers.append(await _streamed(streaming, asked))
        return answers

    before = process_cpu_s(pid) if pid else {}
    started_s = time.perf_counter()
    clients = await asyncio.gather(*(client(place) for place in range(plan.edges + plan.plain)))
    wall_s = time.perf_counter() - started_s
    after = process_cpu_s(pid) if pid else {}
    return CrowdRound(clients, plan.edges, wall_s, {k: s - before.get(k, 0.0) for k, s in after.items()})


async def _drafted(edge: EdgeAgent, asked: Known, name: str) -> Answered:
    request = GenerationRequest(name, asked.prompt, Sampling(len(asked.tokens), ignore_eos=True))
    started_s, ids, times, passes = time.perf_counter(), list[int](), list[float](), 0
    async for chunk in edge.generate(request):
        ids += chunk.token_ids
        passes = chunk.stats.target_passes
        if chunk.token_ids:
            times.append(time.perf_counter())
    return Answered(len(ids), started_s, times[0], times[-1], passes, tuple(ids) != asked.tokens)


async def _streamed(client: Client, asked: Known) -> Answered:
    answer = await client.stream({"prompt": asked.prompt, **exactly(len(asked.tokens))})
    if answer.num_tokens != len(asked.tokens):
        raise CliError(f"An answer has {answer.num_tokens} tokens instead of {len(asked.tokens)}.")
    first_s = answer.arrivals_s[0] if answer.arrivals_s else answer.chunks_s[0]
    return Answered(answer.num_tokens, answer.started_s, first_s, answer.chunks_s[-1], answer.num_tokens)


# -- what came of it ----------------------------------------------------------------------


def _ratios(rounds: Mapping[str, Sequence[CrowdRound]], way: str, figure: str) -> Interval | None:
    ours, plain = ([each.figures()[figure] for each in rounds[name]] for name in (way, PLAIN))
    return ratio(ours, plain) if all(ours) and all(plain) else None


def crowd_json(plan: CrowdPlan, rounds: Mapping[str, Sequence[CrowdRound]]) -> dict[str, Any]:
    """Medians of our rounds, ratios to plain streaming with 90 % intervals, and the A/A row beside them."""
    ours = [each.figures() for each in rounds[PIPESD]]
    rate, again = (_ratios(rounds, way, "tokens_per_s") for way in (PIPESD, AGAIN))
    beside = _ratios(rounds, PIPESD, "plain_tokens_per_s")
    return {
        "edges": plan.edges,
        "plain": plan.plain,
        "tokens_per_s_over_plain": rate and round(rate[0], 4),
        "plain_neighbours_over_plain": beside and round(beside[0], 4),
        **{name: round(median(each[name] for each in ours), 4) for name in ours[0]},
        "intervals": {"tokens_per_s_over_plain": rate, "plain_neighbours_over_plain": beside, "a_a": again},
        "rounds": {way: [each.figures() for each in several] for way, several in rounds.items()},
    }


def describe_crowd(found: Mapping[str, Any]) -> list[str]:
    """Lines of what `crowd_json` has."""

    def interval(name: str) -> str:
        value = found["intervals"][name]
        return "-" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"

    return [
        f"{found['edges']} edges beside {found['plain']} plain clients:",
        f"  tokens/s over plain {interval('tokens_per_s_over_plain')}; A/A {interval('a_a')}; "
        f"plain neighbours over plain {interval('plain_neighbours_over_plain')}",
        f"  TTFT p95 {found['ttft_p95_ms']:.0f} ms; TPT p50 {found['tpt_p50_ms']:.1f}, "
        f"p95 {found['tpt_p95_ms']:.1f}, p99 {found['tpt_p99_ms']:.1f} ms; Jain {found['jain']:.3f}; "
        f"{found['passes_per_token']:.2f} passes a token; CPU {found['cpu_s']:.1f} s; "
        f"{found['differing']:.0f} differing texts",
    ]
