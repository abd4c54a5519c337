"""`pipesd bench load`: plain traffic on an OpenAI-compatible server, and what pipesd costs it.

Clients in a closed loop: each asks for its next answer when it has the one before. Prompts, seeds and lengths
are the same in every round, so two servers get the same work; rounds of the compared servers take turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, Final, NamedTuple

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.harness.clients import Client, Clock, Json, TimedAnswer, connected, exactly
from benchmarks.harness.options import Flags, JsonFile, numbers_in
from benchmarks.harness.processes import process_cpu_s
from benchmarks.harness.prompts import HUMANEVAL, load_prompts
from benchmarks.harness.server import RunningServer, running_server, running_stock
from benchmarks.harness.session import next_commit, opened, welcome
from benchmarks.reports.ratios import ratio
from benchmarks.reports.records import write_json
from edge_agent.agent import cloud_connector
from edge_agent.verifier.transport import Connector
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Mode, Open, Sampling

__all__ = [
    "Plan",
    "Round",
    "describe",
    "load",
    "load_json",
    "measured_round",
    "ratio",
    "run_load",
    "steps_of",
]

PLUGIN: Final = "plugin"
STOCK: Final = "stock"
_AGAIN: Final = " again"
"""Marks the second turn of a server in each round: the A/A row says what the machine itself makes of it."""
_TEMPERATURE: Final = 0.8
_STEPS: Final = "vllm:iteration_tokens_total"
_FIGURES: Final = ("tokens_per_s", "cpu_s", "steps", "tokens_per_step", "ttft_p50_ms", "tpot_p50_ms")
_MOST_AT_ONCE: Final = 32
"""Parked sessions that are opened at a time."""

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`clients` at a time, each `answers` answers of `tokens` tokens, beside `parked` sessions."""

    clients: int
    answers: int
    tokens: int
    parked: int = 0

    def bodies(self, texts: Sequence[str], client: int) -> list[Json]:
        """What one client asks for, the same in every round."""
        places = [client + self.clients * number for number in range(self.answers)]
        sampled = {**exactly(self.tokens), "temperature": _TEMPERATURE}
        return [{"prompt": texts[place % len(texts)], "seed": place, **sampled} for place in places]


class Steps(NamedTuple):
    """Engine steps, the tokens in them, and how many steps had up to so many tokens."""

    steps: float
    tokens: float
    sizes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Round:
    """One plan on one server."""

    answers: Sequence[TimedAnswer]
    wall_s: float
    cpu_s: Mapping[str, float]
    """By process; empty for a server that is not ours."""
    steps: Steps | None
    """None: the server's metrics do not tell."""

    def figures(self) -> Figures:
        """By name; None: not measured."""
        ttft_ms = [answer.ttft_s * 1e3 for answer in self.answers]
        tpot_ms = [
            (answer.chunks_s[-1] - answer.arrivals_s[0]) * 1e3 / (answer.num_tokens - 1)
            for answer in self.answers
            if answer.arrivals_s and answer.num_tokens > 1
        ]
        steps = self.steps
        return {
            "tokens_per_s": sum(answer.num_tokens for answer in self.answers) / self.wall_s,
            "cpu_s": sum(self.cpu_s.values()) or None,
            "steps": steps.steps if steps else None,
            "tokens_per_step": steps.tokens / steps.steps if steps and steps.steps else None,
            **_percentiles("ttft", ttft_ms),
            **_percentiles("tpot", tpot_ms),
        }


def _percentiles(name: str, values: Sequence[float]) -> Figures:
    tenths = quantiles([*values] * 2, n=10, method="inclusive") if values else [None] * 9
    return {f"{name}_p{p}_ms": tenths[p // 10 - 1] for p in (50, 90)}


class Contestant(NamedTuple):
    """A server that answers; None: its process is not ours (`pid`), it has no sessions (`connector`)."""

    url: str
    api_key: str | None
    pid: int | None
    connector: Connector | None


def load(
    flags: Flags,
    clients: Annotated[str, typer.Option("--clients", help="How many clients at a time.")] = "1,4,16",
    answers: Annotated[int, typer.Option("--answers", min=1, help="Answers for each client.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of each answer.")] = 64,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds of each server.")] = 3,
    parked: Annotated[
        str, typer.Option("--parked", help="Open sessions beside them that wait for their edges.")
    ] = "0",
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            help="plugin,stock: start both here, the second being vLLM without pipesd, and compare them.",
        ),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(
            "--edges",
            metavar="N,M",
            help="So many edges beside plain clients, and the same crowd streamed to, in place of the above.",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[int, typer.Option("--plain", min=0, help="Plain clients beside the edges.")] = 0,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Answers of each edge and plain client.")] = 2,
    draft_ms: Annotated[
        float, typer.Option("--draft-ms", min=0.1, help="A draft token of an edge takes it.")
    ] = 8.0,
    rtt_ms: Annotated[float, typer.Option("--rtt-ms", min=0.0, help="Added between all and server.")] = 0.0,
    agreement: Annotated[
        float, typer.Option("--agreement", min=0.0, max=1.0, help="Share of drafts that are right.")
    ] = 0.75,
    arrivals: Annotated[
        str,
        typer.Option(
            "--arrivals", help="closed: each asks when it has its answer; poisson:RATE: RATE a second in all."
        ),
    ] = "closed",
    json_file: JsonFile = None,
) -> None:
    """Put plain traffic or edges on a server: tokens/s, latencies, fairness, steps, CPU.

    Plain clients alone are measured as they are, or against stock vLLM; edges against plain streaming.
    """
    if edges is not None:
        _load_edges(
            flags,
            numbers_in(edges, "--edges"),
            {
                "plain": plain,
                "turns": turns,
                "tokens": tokens,
                "draft_ms": draft_ms,
                "rtt_ms": rtt_ms,
                "agreement": agreement,
                "arrivals_s": _arrivals_s(arrivals),
            },
            repeats,
            json_file,
        )
        return
    plans = [
        Plan(number, answers, tokens, num_parked)
        for num_parked in numbers_in(parked, "--parked", least=0)
        for number in numbers_in(clients, "--clients")
    ]
    if compare not in (None, f"{PLUGIN},{STOCK}"):
        raise CliError(f"--compare takes {PLUGIN},{STOCK}.", exit_code=2)
    with (
        running_server(flags) as server,
        contestants_of(server, with_stock=compare is not None) as contestants,
        live_status() as show,
    ):
        found = asyncio.run(run_load(contestants, plans, repeats, show))
    out = Console(highlight=False, soft_wrap=True)
    for plan in plans:
        out.print(*describe(plan, found[plan]), sep="\n")
    if json_file is not None:
        write_json(json_file, load_json(found))


def _load_edges(
    flags: Flags, counts: Sequence[int], settings: Mapping[str, Any], repeats: int, json_file: Path | None
) -> None:
    """A crowd for each number of edges; the file has the last one's figures, and all of them in `crowds`."""
    from benchmarks.speed.crowd import CrowdPlan, crowd_json, describe_crowd, run_crowd

    texts = [prompt.text for prompt in load_prompts(HUMANEVAL)]
    found: list[dict[str, Any]] = []
    out = Console(highlight=False, soft_wrap=True)
    with running_server(flags) as server, live_status() as show:
        pid = server.process.pid if server.process else None
        for number in counts:
            plan = CrowdPlan(number, **settings)
            rounds = asyncio.run(run_crowd(server.settings, plan, repeats, texts, pid, show))
            found.append(crowd_json(plan, rounds))
            out.print(*describe_crowd(found[-1]), sep="\n")
    if json_file is not None:
        write_json(json_file, {**found[-1], "crowds": found})


def _arrivals_s(text: str) -> float | None:
    kind, _, rate = text.partition(":")
    if kind == "closed" and not rate:
        return None
    if kind == "poisson" and rate.replace(".", "", 1).isdecimal() and float(rate):
        return float(rate)
    raise CliError("--arrivals takes closed, or poisson:RATE such as poisson:0.5.", exit_code=2)


@contextmanager
def contestants_of(server: RunningServer, *, with_stock: bool) -> Iterator[dict[str, Contestant]]:
    """By name; with stock also stock vLLM, started like `server`, twice: its second turn is the A/A row."""
    settings, process = server.settings, server.process
    pid = process.pid if process else None
    ours = Contestant(settings.cloud_url, settings.cloud_key, pid, cloud_connector(settings))
    if not with_stock:
        yield {PLUGIN: ours}
        return
    if process is None:
        raise CliError("--compare starts both servers here: leave out --cloud.", exit_code=2)
    with running_stock(process) as stock:
        theirs = Contestant(stock.base_url, None, stock.pid, None)
        yield {PLUGIN: ours, STOCK: theirs, STOCK + _AGAIN: theirs}


async def run_load(
    contestants: Mapping[str, Contestant],
    plans: Sequence[Plan],
    repeats: int,
    show: Callable[[str], None],
    texts: Sequence[str] = (),
) -> dict[Plan, dict[str, list[Round]]]:
    """All plans on all contestants, who take turns after a warm-up, another one first each time.

    `texts` are the prompts, HumanEval's if there are none. Raises `CliError`, `CloudError`.
    """
    texts = texts or [prompt.text for prompt in load_prompts(HUMANEVAL)]
    found: dict[Plan, dict[str, list[Round]]] = {plan: {name: [] for name in contestants} for plan in plans}
    for plan in plans:
        for number in range(repeats + 1):
            names = list(contestants)
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                which = f"round {number} of {repeats}" if number else "warm-up"
                show(f"{plan.clients} clients, {name}: {which}")
                measured = await measured_round(contestants[name], texts, plan)
                if number:
                    found[plan][name].append(measured)
    return found


async def measured_round(
    contestant: Contestant, texts: Sequence[str], plan: Plan, clock: Clock = time.perf_counter
) -> Round:
    """One round, its parked sessions opened before and closed after it. Raises `CliError`, `CloudError`."""
    url, key, pid, connector = contestant
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(url, key, clock, shared=plan.clients))
        meter = await stack.enter_async_context(connected(url, key, kept=False))
        if connector is not None and plan.parked:
            await stack.enter_async_context(parked_sessions(connector, plan.parked))
        await client.model()
        before, cpu_before = steps_of(await meter.metrics()), process_cpu_s(pid) if pid else {}
        started_s = clock()
        several = [_ask(client, plan.bodies(texts, number)) for number in range(plan.clients)]
        answers = [answer for of_client in await asyncio.gather(*several) for answer in of_client]
        wall_s = clock() - started_s
        after, cpu_after = steps_of(await meter.metrics()), process_cpu_s(pid) if pid else {}
    cpu_s = {name: cpu_s - cpu_before.get(name, 0.0) for name, cpu_s in cpu_after.items()}
    return Round(answers, wall_s, cpu_s, _between(before, after))


async def _ask(client: Client, bodies: Sequence[Json]) -> list[TimedAnswer]:
    answers = []
    for body in bodies:
        answer = await client.stream(body)
        if answer.num_tokens != body["max_tokens"]:
            raise CliError(f"An answer has {answer.num_tokens} tokens instead of {body['max_tokens']}.")
        answers.append(replace(answer, text=""))
    return answers


@asynccontextmanager
async def parked_sessions(connector: Connector, number: int) -> AsyncIterator[None]:
    """So many sessions that have their first token and wait for drafts which never come."""
    gate = asyncio.Semaphore(_MOST_AT_ONCE)

    async def park(stack: AsyncExitStack, place: int) -> None:
        async with gate:
            transport = await stack.enter_async_context(opened(connector))
            await welcome(transport)
            prompt = [100 + place % 1000, *range(100, 131)]
            await transport.send(Open(1, prompt, Sampling(max_tokens=64, ignore_eos=True), Mode.OFFLOAD))
            await next_commit(transport)

    async with AsyncExitStack() as stack:
        await asyncio.gather(*(park(stack, place) for place in range(number)))
        yield


def steps_of(page: str) -> Steps | None:
    """What a page of vLLM's metrics says of its steps so far; None: nothing."""
    steps, tokens = 0.0, 0.0
    below: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == f"{_STEPS}_count":
                steps += sample.value
            elif sample.name == f"{_STEPS}_sum":
                tokens += sample.value
            elif sample.name == f"{_STEPS}_bucket":
                limit = sample.labels["le"]
                below[limit] = below.get(limit, 0.0) + sample.value
    if not below:
        return None
    ordered = sorted(below, key=float)
    sizes = {ordered[0]: below[ordered[0]]} | {
        high: below[high] - below[low] for low, high in pairwise(ordered)
    }
    return Steps(steps, tokens, sizes)


def _between(before: Steps | None, after: Steps | None) -> Steps | None:
    if before is None or after is None:
        return None
    sizes = {limit: number - before.sizes.get(limit, 0.0) for limit, number in after.sizes.items()}
    return Steps(
        after.steps - before.steps, after.tokens - before.tokens, {k: v for k, v in sizes.items() if v}
    )


def _ratios(
    rounds: Mapping[str, Sequence[Round]], name: str, base: str
) -> dict[str, tuple[float, float, float]]:
    found = {}
    for figure in _FIGURES:
        ones, others = ([each.figures()[figure] for each in rounds[who]] for who in (name, base))
        if all(ones) and all(others):
            found[figure] = ratio([one or 0.0 for one in ones], [other or 0.0 for other in others])
    return found


def _compared(rounds: Mapping[str, Sequence[Round]]) -> list[tuple[str, str, str]]:
    if STOCK not in rounds:
        return []
    return [(f"{PLUGIN} / {STOCK}", PLUGIN, STOCK), (f"A/A, {STOCK} / {STOCK}", STOCK + _AGAIN, STOCK)]


def _medians(rounds: Sequence[Round]) -> Figures:
    by_name = {name: [each.figures()[name] for each in rounds] for name in rounds[0].figures()}
    return {
        name: median([value for value in values if value is not None])
        if any(value is not None for value in values)
        else None
        for name, values in by_name.items()
    }


def describe(plan: Plan, rounds: Mapping[str, Sequence[Round]]) -> list[str]:
    """Lines: medians of each server's rounds, its last round's steps by size, then the ratios."""
    lines = [f"{plan.clients} clients, {plan.answers} answers of {plan.tokens} tokens, {plan.parked} parked:"]
    for name, several in rounds.items():
        f = {key: "?" if value is None else f"{value:.4g}" for key, value in _medians(several).items()}
        lines.append(
            f"  {name}: {f['tokens_per_s']} tokens/s; TTFT {f['ttft_p50_ms']} ms (p90 {f['ttft_p90_ms']}); "
            f"TPOT {f['tpot_p50_ms']} ms (p90 {f['tpot_p90_ms']}); {f['steps']} steps of "
            f"{f['tokens_per_step']} tokens; CPU {f['cpu_s']} s"
        )
        last = several[-1]
        lines += (
            ["    CPU s: " + ", ".join(f"{key} {s:.2f}" for key, s in last.cpu_s.items())]
            if last.cpu_s
            else []
        )
        if last.steps:
            sizes = ", ".join(f"<= {limit}: {number:.0f}" for limit, number in last.steps.sizes.items())
            lines.append(f"    steps by tokens: {sizes}")
    for title, name, base in _compared(rounds):
        found = _ratios(rounds, name, base)
        shown = (f"{figure} {r:.3f} ({low:.3f} to {high:.3f})" for figure, (r, low, high) in found.items())
        lines.append(f"  {title}: {', '.join(shown)}")
    return lines


def load_json(found: Mapping[Plan, Mapping[str, Sequence[Round]]]) -> dict[str, Any]:
    """`{"load": [...]}`: for each plan its settings, each server's rounds, and the ratios with intervals."""
    plans = [
        {
            "clients": plan.clients,
            "answers": plan.answers,
            "tokens": plan.tokens,
            "parked": plan.parked,
            "rounds": {
                name: [
                    {
                        **each.figures(),
                        "cpu_by_process_s": each.cpu_s,
                        "sizes": each.steps and each.steps.sizes,
                    }
                    for each in several
                ]
                for name, several in rounds.items()
            },
            "ratios": {title: _ratios(rounds, name, base) for title, name, base in _compared(rounds)},
        }
        for plan, rounds in found.items()
    ]
    return {"load": plans}
