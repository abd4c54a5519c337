"""`pipesd bench sim --against-real`: the same plans on a real server and real connections.

An edge is another machine: in the real runs, too, its draft model's work takes no core of the server's. It
says what the real draft model said when the pair was recorded, after the scenario's time a token; all else of
the edge, the link's proxy, the server and its engine are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.harness.agent import running_agent
from benchmarks.harness.clients import Client, connected, exactly
from benchmarks.harness.options import Flags
from benchmarks.harness.pair import paced_drafter
from benchmarks.harness.rivals import CLOUD, DEFAULT_PARAMETERS, Rival, rival_parameters
from benchmarks.harness.server import running_server
from benchmarks.harness.session import opened
from benchmarks.netlink.model import UNSHAPED, Configure, PathSpec
from benchmarks.netlink.proxy import proxy_path
from benchmarks.reports.records import write_json
from benchmarks.scenarios.loading import Scenario, load_scenario
from benchmarks.sim.agreements import RecordedAnswer, RecordedPair, read_pair
from benchmarks.sim.costs import COSTS, Costs
from benchmarks.sim.models import replayed
from benchmarks.sim.plan import StepCost
from benchmarks.sim.scenarios import Cell
from benchmarks.sim.speed import Answer, answers_of
from benchmarks.speed.overhead import Round, measured_rounds, measured_stream, own_text
from edge_agent.agent import EdgeAgent, cloud_connector
from edge_agent.api import GenerationRequest, Sampling
from edge_agent.control import FixedParameters
from edge_agent.drafting import Drafter, DraftThread
from edge_agent.sampling import DraftToken
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeDrafter
from edge_agent.verifier.transport import Connector
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Fingerprint

__all__ = ["Compared", "ReplayDrafter", "lay_beside_real"]

Ask = Callable[[int, RecordedAnswer, int | None], Awaitable[Answer]]
"""`await ask(edge, answer, num_tokens)`; None: all that were recorded."""

_NUM_DRAFTS: Final = (1, 3, 5, 7, 8, 11, 15, 23, 31, 47)
_ROUNDS: Final = 8
_FEW: Final = 4
"""Rounds of a number of tokens that say what a step over so many takes."""
_BLOCK_SIZE: Final = 32
"""The least that vLLM's CPU build takes: of its own 128 nothing is kept of a shorter prompt."""
_TOGETHER: Final = 4
_STREAMED: Final = 24
"""Passes of each stream."""
_CATEGORY: Final = "code"
_BETWEEN_S: Final = 0.5
_REPEATS: Final = 3
"""Of each real run, one rival after the other; the median one counts, as a machine is seldom quiet."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One rival in one scenario, in the real world and in the simulated one."""

    scenario: str
    edges: int
    policy: str
    mode: str | None
    real_tpt_ms: float
    tpt_ms: float
    real_passes_per_token: float
    passes_per_token: float

    @property
    def ratio(self) -> float:
        """Simulated over real."""
        return self.tpt_ms / self.real_tpt_ms


class ReplayDrafter(FakeDrafter):
    """Says along recorded answers what their draft said, `draft_s` after it was asked.

    Where the record ends it says a token that is wrong, with a confidence of the record's.
    """

    def __init__(
        self, answers: Sequence[RecordedAnswer], fingerprint: Callable[[int], Fingerprint], draft_s: float
    ) -> None:
        """`fingerprint` is the real draft model's."""
        self._real_fingerprint = fingerprint
        self._said = {tokens: draft for answer in answers for tokens, draft in _script(answer)}
        self._confidences = [pick.probability for answer in answers for pick in answer.picks]
        super().__init__(self._say, [""] * _VOCABULARY, sleep_s=draft_s)

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        return self._real_fingerprint(num_tokens)

    def _say(self, tokens: Sequence[int]) -> DraftToken:
        found = self._said.get(tuple(tokens))
        return found or DraftToken(0, self._confidences[len(tokens) % len(self._confidences)])


_VOCABULARY: Final = 49_152
"""That of the embedded models."""


def _script(answer: RecordedAnswer) -> Iterator[tuple[tuple[int, ...], DraftToken]]:
    prompt = tuple(answer.prompt)
    for number, pick in enumerate(answer.picks):
        before = prompt + tuple(answer.tokens[:number])
        said = [pick, *answer.detours.get(number, ())]
        for ahead, each in enumerate(said):
            aside = tuple(earlier.token_id for earlier in said[:ahead])
            yield before + aside, DraftToken(each.token_id, each.probability)


def lay_beside_real(
    flags: Flags,
    scenarios: Sequence[str],
    rivals: Sequence[Rival],
    counts: Sequence[int],
    pair: str,
    num_prompts: int,
    json_file: Path | None,
) -> None:
    """Print real and simulated TPT of every rival, on prompts to which this server says what was recorded.

    What a step costs is measured before each scenario, in verify rounds without an edge agent; nothing is
    fitted to the runs that are compared.

    Raises `CliError`, `EdgeError`.
    """
    recorded = read_pair(pair)
    greedy = [n for n, a in enumerate(recorded.answers) if not a.temperature and a.category == _CATEGORY]
    small_blocks = replace(flags, vllm=("--block-size", str(_BLOCK_SIZE), *flags.vllm))
    with running_server(small_blocks) as server, live_status() as show:
        measured = asyncio.run(_reproduced(server.settings, recorded, greedy, num_prompts, show))
        draft = paced_drafter(server.settings, 0.0)
        try:
            bench = _Bench(server.settings, recorded, draft, show)
            found = [
                compared
                for name in scenarios
                for compared in _scenario(bench, load_scenario(name), rivals, counts, pair, measured)
            ]
        finally:
            draft.close()
    Console(highlight=False).print(_table(found))
    if json_file is not None:
        write_json(json_file, {"runs": found})


async def _reproduced(
    settings: EdgeSettings,
    recorded: RecordedPair,
    candidates: Sequence[int],
    num_prompts: int,
    show: Callable[[str], None],
) -> list[int]:
    """The first `num_prompts` of `candidates` that this server answers as recorded.

    Where two tokens are as good as equal, another number type or CPU takes the other one, and what the draft
    said after the recorded one tells nothing. Raises `CloudError`, `CliError`.
    """
    connector = cloud_connector(settings)
    found: list[int] = []
    for place, number in enumerate(candidates):
        if len(found) == num_prompts:
            break
        answer = recorded.answers[number]
        show(
            f"Does this server say what was recorded? {place + 1} asked, {len(found)} of {num_prompts} found"
        )
        if await own_text(connector, len(answer.tokens), answer.prompt) == answer.tokens:
            found.append(number)
    if len(found) < num_prompts:
        raise CliError(
            f"This server answers {len(found)} of {len(candidates)} prompts as recorded, {num_prompts} are "
            "needed: try --dtype float32, or fewer --prompts."
        )
    return found


@dataclass(frozen=True, slots=True)
class _Bench:
    settings: EdgeSettings
    recorded: RecordedPair
    draft: Drafter
    """The pair's real draft model: only its vocabulary is asked for."""
    show: Callable[[str], None]


def _scenario(
    bench: _Bench,
    scenario: Scenario,
    rivals: Sequence[Rival],
    counts: Sequence[int],
    pair: str,
    measured: Sequence[int],
) -> list[Compared]:
    runner = _Runner(bench, max(scenario.gamma_ms / 1e3, COSTS["cpu"].draft_s))
    asked = [bench.recorded.answers[n] for n in measured]

    async def real() -> tuple[Costs, dict[tuple[int, Rival], list[Answer]]]:
        costs = await _profiled(bench.settings, runner.draft_s)
        found: dict[tuple[int, Rival], list[list[Answer]]] = {}
        for number, num_edges, rival in product(range(_REPEATS), counts, rivals):
            bench.show(f"{scenario.name}: {rival.label}, {num_edges} edges, repeat {number + 1}")
            answers = await runner.answers(rival, asked, scenario.path, num_edges)
            found.setdefault((num_edges, rival), []).append(answers)
        return costs, {key: sorted(runs, key=_tpt_ms)[_REPEATS // 2] for key, runs in found.items()}

    costs, answers = asyncio.run(real())
    return [
        _compared(
            Cell(
                scenario=scenario,
                costs=costs,
                costs_name="fitted",
                pair=pair,
                category=_CATEGORY,
                answers=tuple(replayed(pair)[n] for n in measured),
                num_edges=num_edges,
                seen=True,
            ),
            rival,
            of_rival,
        )
        for (num_edges, rival), of_rival in answers.items()
    ]


def _compared(cell: Cell, rival: Rival, real: Sequence[Answer]) -> Compared:
    simulated = answers_of(cell, rival)
    found = Compared(
        scenario=cell.scenario.name,
        edges=cell.num_edges,
        policy=rival.policy,
        mode=None if rival.mode is None else str(rival.mode),
        real_tpt_ms=_tpt_ms(real),
        tpt_ms=_tpt_ms(simulated),
        real_passes_per_token=_passes(real),
        passes_per_token=_passes(simulated),
    )
    print(found, round(found.ratio, 3), flush=True)
    return found


async def _profiled(settings: EdgeSettings, draft_s: float) -> Costs:
    """Over bare connections: what steps over so many tokens and requests take, and a round beyond them."""
    connector = cloud_connector(settings)
    steps_ms: dict[int, list[float]] = {}
    fronts_ms: list[float] = []
    alone, together = await _streamed_by(connector, 1), await _streamed_by(connector, _TOGETHER)
    steps_ms[1] = [each.step_ms for each in alone]
    text = await own_text(connector)
    for num in _NUM_DRAFTS:
        async with opened(connector) as transport:
            async for each in measured_rounds(transport, _ROUNDS, text, num_drafts=num):
                steps_ms.setdefault(each.num_tokens, []).append(each.step_ms)
                fronts_ms.append(each.added_ms - each.queue_ms)
    measured = [(num, median(steps) / 1e3) for num, steps in sorted(steps_ms.items()) if len(steps) >= _FEW]
    step = StepCost(measured=tuple(measured))
    together_s, alone_s = (median(each.wall_ms for each in of) / 1e3 for of in (together, alone))
    rows_s = step.seconds(_TOGETHER, 0) - step.seconds(1, 0)
    request_s = max(0.0, (together_s - alone_s - rows_s) / (_TOGETHER - 1))
    costs = Costs(
        msgspec.structs.replace(step, request_s=request_s),
        draft_s=draft_s,
        front_s=max(0.0, median(fronts_ms)) / 1e3,
        async_scheduling=False,
    )
    print(costs, flush=True)
    return costs


async def _streamed_by(connector: Connector, num: int) -> list[Round]:
    """The passes of `num` streams at once; where several are in most of them, all are."""

    async def one() -> list[Round]:
        async with opened(connector) as transport:
            return [each async for each in measured_stream(transport, _STREAMED)]

    return [each for rounds in await asyncio.gather(*(one() for _ in range(num))) for each in rounds]


@dataclass(frozen=True, slots=True)
class _Runner:
    bench: _Bench
    draft_s: float

    async def answers(
        self,
        rival: Rival,
        asked: Sequence[RecordedAnswer],
        link: PathSpec,
        num_edges: int,
    ) -> list[Answer]:
        """As `Cell.asked`: each edge one after the other. The prompts are in the prefix cache before."""
        settings = self.bench.settings
        async with AsyncExitStack() as stack:
            path = await stack.enter_async_context(proxy_path())
            port = int(settings.cloud_url.rsplit(":", 1)[1])
            path.configure(Configure(UNSHAPED))
            url = f"http://{await path.reach(port)}"
            ask = await stack.enter_async_context(self._asking(rival, url, num_edges, asked))
            path.configure(Configure(link))
            for edge in range(num_edges):
                await ask(edge, asked[edge % len(asked)], 1)
            if num_edges < len(asked):
                for answer in asked[num_edges:]:
                    await ask(0, answer, 1)
            num_rounds = -(-len(asked) // num_edges)
            found: list[Answer] = []
            for number in range(num_rounds):
                await asyncio.sleep(_BETWEEN_S)
                found += await asyncio.gather(
                    *(
                        ask(edge, asked[(edge + number * num_edges) % len(asked)], None)
                        for edge in range(num_edges)
                    )
                )
            return found

    @asynccontextmanager
    async def _asking(
        self,
        rival: Rival,
        url: str,
        num_edges: int,
        asked: Sequence[RecordedAnswer],
    ) -> AsyncIterator[Ask]:
        async with AsyncExitStack() as stack:
            if rival.policy == CLOUD:
                clients = [await stack.enter_async_context(connected(url)) for _ in range(num_edges)]

                async def stream(edge: int, answer: RecordedAnswer, num: int | None) -> Answer:
                    return await _streamed(clients[edge], answer, num or len(answer.tokens))

                yield stream
                return
            edges = [await stack.enter_async_context(self._edge(rival, url, asked)) for _ in range(num_edges)]
            numbers = count()

            async def generate(edge: int, answer: RecordedAnswer, num: int | None) -> Answer:
                sampling = Sampling(num or len(answer.tokens), ignore_eos=True)
                request = GenerationRequest(f"against-{next(numbers)}", tuple(answer.prompt), sampling)
                chunks = [chunk async for chunk in edges[edge].generate(request)]
                ids = [token for chunk in chunks for token in chunk.token_ids]
                if ids != answer.tokens[: len(ids)]:
                    raise CliError(
                        f"{answer.name}: with drafts the server says something else than without: "
                        "try --dtype float32."
                    )
                return Answer.of(chunks[-1].stats)

            yield generate

    @asynccontextmanager
    async def _edge(
        self, rival: Rival, url: str, asked: Sequence[RecordedAnswer]
    ) -> AsyncIterator[EdgeAgent]:
        settings = self.bench.settings.model_copy(update={"cloud_url": url})
        parameters = FixedParameters(rival_parameters(rival.policy, DEFAULT_PARAMETERS, "code"))
        drafter = ReplayDrafter(asked, self.bench.draft.fingerprint, self.draft_s)
        worker = DraftThread(drafter)
        try:
            async with running_agent(settings, worker, rival, parameters) as agent:
                yield agent
        finally:
            await worker.close()


async def _streamed(client: Client, answer: RecordedAnswer, num_tokens: int) -> Answer:
    await client.connection_open()
    timed = await client.stream({"prompt": answer.prompt, **exactly(num_tokens)})
    return Answer(
        num_tokens=timed.num_tokens,
        total_s=timed.total_s,
        ttft_s=timed.ttft_s,
        target_passes=timed.num_tokens,
        drafts_verified=0,
        bytes_up=0,
    )


def _tpt_ms(answers: Sequence[Answer]) -> float:
    return round(sum(a.total_s for a in answers) * 1e3 / sum(a.num_tokens for a in answers), 2)


def _passes(answers: Sequence[Answer]) -> float:
    return round(sum(a.target_passes for a in answers) / sum(a.num_tokens for a in answers), 3)


def _table(found: Sequence[Compared]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    figures = "real\nms", "simulated\nms", "ratio", "passes a token\nreal", "\nsimulated"
    for heading in ("scenario", "edges", "", *figures):
        table.add_column(heading, justify="left" if heading in ("scenario", "") else "right")
    for each in found:
        label = each.policy if each.mode is None else f"{each.policy} {each.mode}"
        table.add_row(
            *(each.scenario, str(each.edges), label),
            *(f"{each.real_tpt_ms:.1f}", f"{each.tpt_ms:.1f}", f"{each.ratio:.2f}"),
            *(f"{each.real_passes_per_token:.3f}", f"{each.passes_per_token:.3f}"),
        )
    return table
