"""`pipesd bench gateway`: the gateway under many clients, and what it adds to an answer."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, Final, NamedTuple

import psutil
import typer
from rich.console import Console
from tokenizers import Tokenizer

from benchmarks.harness.clients import Client, Clock, TimedAnswer, connected, exactly, question
from benchmarks.harness.edge import edge_process
from benchmarks.harness.options import Flags, JsonFile
from benchmarks.harness.recorder import Recording, RecordingGenerator
from benchmarks.harness.server import RunningServer, running_server
from benchmarks.reports.records import write_json
from edge_agent.api import GenerationRequest, Generator, Route, Sampling, TargetInfo
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import hosted_gateway

__all__ = [
    "CpuSplit",
    "CrowdPlan",
    "CrowdResult",
    "added_in_an_answer",
    "describe_cost",
    "describe_cpu",
    "describe_crowd",
    "gateway",
    "instant_generator",
    "measure_live_cost",
    "measure_pure_cost",
    "run_crowd",
]

_PURE_TOKENS: Final = 400
_MIB: Final = 1 << 20
_SHOWN_ERRORS: Final = 3
_FLAT_SHARE: Final = 0.02
"""Memory that grows by less than this share in the second half of a run counts as flat."""
_MAX_LOOP_SHARE: Final = 0.05
_ADDED_MS: Final = {"token_ms": ("a streamed token", 0.3), "ttft_ms": ("the first token", 5.0)}
"""What the gateway may take of all CPU and add to an answer, medians."""
_SUBJECTS: Final = ("rivers", "bread", "clocks", "bridges", "glass", "maps", "paper", "lighthouses")
_QUESTION: Final = question(
    "Tell me about the history of bread, in as many words as you like, and leave nothing out."
)
_TEXT: Final = "a generator that takes no time leaves the cost of the gateway alone "

Show = Callable[[str], None]
Added = Mapping[str, Sequence[float]]
"""Samples of what HTTP and gateway add, in ms, by the names of `_ADDED_MS`."""


def gateway(
    flags: Flags,
    clients: Annotated[
        int, typer.Option("--clients", min=1, help="Clients that keep their connection.")
    ] = 200,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Answers under way at a time.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Answers for each client.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens of each answer.")] = 16,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Answers to measure the cost on.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """Measure errors, memory and CPU of the gateway under many clients, and what it adds to a token.

    The real stack: a server, and `pipesd edge` as a process of its own. The CPU of the event loop's
    thread (gateway, session logic, network) is counted apart from the drafting in the same process.
    """
    plan = CrowdPlan(clients, at_once, rounds, tokens)
    with running_server(flags) as server:
        report = asyncio.run(_run(server, plan, repeats))
    if json_file is not None:
        write_json(json_file, report)


async def _run(server: RunningServer, plan: CrowdPlan, repeats: int) -> dict[str, Any]:
    """Each figure is printed as soon as it is known."""
    from edge_agent.agent import EdgeAgent

    out = Console(highlight=False, soft_wrap=True)
    with (
        live_status() as show,
        tempfile.TemporaryDirectory() as folder,
        edge_process(server.settings, Path(folder)) as edge,
    ):
        show("Starting the edge agent")
        await asyncio.to_thread(edge.wait_ready)
        started: list[CpuSplit] = []
        process = psutil.Process(edge.pid)
        crowd = await run_crowd(
            edge.base_url,
            plan,
            lambda: int(process.memory_info().rss),
            show,
            lambda: started.append(CpuSplit.of(process, server.cpu_s())),
        )
        cpu = CpuSplit.of(process, server.cpu_s()).since(started[0])
    out.print(*describe_crowd(plan, crowd), describe_cpu(cpu), sep="\n")
    with live_status() as show:
        instant = instant_generator(_PURE_TOKENS)
        costs = {"instant": await measure_pure_cost(instant, _PURE_TOKENS, repeats, show)}
        agent = await EdgeAgent.start(server.settings)  # gateway and client in this process, on one clock
        try:
            costs["live"] = await measure_live_cost(agent, plan.num_tokens, repeats, show)
        finally:
            await agent.close()
    for name, added in costs.items():
        out.print(*describe_cost(name, added), sep="\n")
    return {
        "plan": asdict(plan),
        "crowd": {**asdict(crowd), "num_answers": crowd.num_answers},
        "cpu": {**cpu._asdict(), "loop_share": cpu.loop_share},
        "added_ms": {
            name: {key: {"median": median(ms), "p90": _p90(ms), "num": len(ms)} for key, ms in added.items()}
            for name, added in costs.items()
        },
    }


# -- many clients, few of them generating at a time ------------------------------------------


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """`num_clients` connections; each asks `rounds` questions; `at_once` answers are under way at a time."""

    num_clients: int = 200
    at_once: int = 4
    rounds: int = 2
    num_tokens: int = 16


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """`errors` is empty if all went well; `num_connections` equals the clients' number if all were kept."""

    num_connections: int
    errors: Sequence[str]
    rss: Sequence[int]
    """Resident bytes, before the first answer and after each."""

    @property
    def num_answers(self) -> int:
        return len(self.rss) - 1


async def run_crowd(
    base_url: str,
    plan: CrowdPlan,
    rss: Callable[[], int],
    show: Show = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> CrowdResult:
    """All clients connect; `at_once` warm-up answers; `on_start`; then the run.

    `rss` gives the gateway's resident bytes. Raises `CliError` if it does not answer at all.
    """
    slots = asyncio.Semaphore(plan.at_once)
    sizes: list[int] = []
    errors: list[str] = []

    async def ask(client: Client, number: int) -> None:
        subject = _SUBJECTS[number % len(_SUBJECTS)]
        try:
            body = {**question(f"Tell me about {subject}, part {number}."), **exactly(plan.num_tokens)}
            await client.stream(body)
        except CliError as error:
            errors.append(str(error))
        sizes.append(rss())
        show(f"{len(sizes) - 1} of {plan.num_clients * plan.rounds} answers")

    async def visit(number: int, client: Client) -> None:
        for turn in range(plan.rounds):
            async with slots:
                await ask(client, number + turn)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(base_url)) for _ in range(plan.num_clients)]
        await asyncio.gather(*(client.model() for client in clients))
        show("Warming up")
        await asyncio.gather(*(ask(client, 0) for client in clients[: plan.at_once]))
        errors.clear()
        sizes[:] = [rss()]
        on_start()
        await asyncio.gather(*(visit(number, client) for number, client in enumerate(clients)))
        return CrowdResult(sum(client.num_connections for client in clients), errors, sizes)


def describe_crowd(plan: CrowdPlan, crowd: CrowdResult) -> list[str]:
    """Errors, connections and memory, which is flat by its second half: the first fills caches."""
    lines = [
        f"{plan.num_clients} clients, {plan.at_once} answers at a time: {crowd.num_answers} answers, "
        f"{len(crowd.errors)} errors, {crowd.num_connections} connections opened"
    ]
    lines += [f"  {error}" for error in crowd.errors[:_SHOWN_ERRORS]]
    sizes = [size / _MIB for size in crowd.rss]
    middle = sizes[len(sizes) // 2]
    growth = sizes[-1] / middle - 1
    flat = "flat" if growth < _FLAT_SHARE else "growing"
    return [
        *lines,
        f"memory of the process: {sizes[0]:.1f} MiB at the start, {middle:.1f} in the middle, "
        f"{sizes[-1]:.1f} at the end, {max(sizes):.1f} at most: {flat} "
        f"({growth:+.2%} in the second half; limit {_FLAT_SHARE:.0%})",
    ]


class CpuSplit(NamedTuple):
    """CPU seconds. `loop_s`: the event loop's thread, which is gateway, session logic and network of the
    edge agent; `other_s`: the process's other threads, which is drafting."""

    loop_s: float
    other_s: float
    server_s: float | None = None
    """All processes of the server; None if it is not ours to measure."""

    @classmethod
    def of(cls, process: psutil.Process, server_s: float | None = None) -> CpuSplit:
        """What a process whose main thread runs the event loop (`pipesd edge` is one) has used so far."""
        # Linux: the main thread's id is the process's. Threads that have ended are in the total alone.
        main = [thread for thread in process.threads() if thread.id == process.pid]
        main_s = sum(thread.user_time + thread.system_time for thread in main)
        times = process.cpu_times()
        return cls(main_s, times.user + times.system - main_s, server_s)

    def since(self, earlier: CpuSplit) -> CpuSplit:
        """What was used after `earlier`."""
        measured = self.server_s is not None and earlier.server_s is not None
        server_s = (self.server_s or 0.0) - (earlier.server_s or 0.0) if measured else None
        return CpuSplit(self.loop_s - earlier.loop_s, self.other_s - earlier.other_s, server_s)

    @property
    def loop_share(self) -> float | None:
        """The event loop's part of all, drafting and server included; None without the server's figure."""
        total_s = self.loop_s + self.other_s + (self.server_s or 0.0)
        return None if self.server_s is None or not total_s else self.loop_s / total_s


def describe_cpu(cpu: CpuSplit) -> str:
    """The event loop's share of all CPU."""
    parts = f"event loop (gateway and sessions) {cpu.loop_s:.1f} s, drafting {cpu.other_s:.1f} s"
    if cpu.loop_share is None:
        return f"CPU: {parts}; its share: not measured (needs a server started here: leave out --cloud)"
    return (
        f"CPU: {parts}, server {cpu.server_s:.1f} s: the event loop has {cpu.loop_share:.1%} "
        f"(limit {_MAX_LOOP_SHARE:.0%})"
    )


# -- what HTTP and gateway add to an answer --------------------------------------------------


def added_in_an_answer(recording: Recording, answer: TimedAnswer) -> tuple[float, list[float]]:
    """ms added to the time to the first token, and to the way of each later piece of text.

    `recording` and `answer` are the same generation before and behind the gateway, on one clock. Of the
    pieces none are given if the gateway joined chunks, so that they cannot be told apart.
    """
    ttft_ms = (answer.ttft_s - (recording.given_s[0] - recording.started_s)) * 1e3
    if len(recording.given_s) != len(answer.arrivals_s):
        return ttft_ms, []
    pairs = zip(recording.given_s[1:], answer.arrivals_s[1:], strict=True)
    return ttft_ms, [(arrived_s - given_s) * 1e3 for given_s, arrived_s in pairs]


async def measure_live_cost(generator: Generator, num_tokens: int, repeats: int, show: Show) -> Added:
    """From answers of an agent: what each took before and behind the gateway. Raises `CliError`."""
    recorder = RecordingGenerator(generator)
    body = {**_QUESTION, **exactly(num_tokens)}
    first_ms: list[float] = []
    token_ms: list[float] = []
    async with hosted_gateway(recorder) as url, connected(url) as client:
        await client.stream(body)  # the connection and the tokenizer are there from now on
        for number in range(repeats):
            show(f"Answer {number + 1} of {repeats} through the gateway")
            answer = await client.stream(body)
            ms, later_ms = added_in_an_answer(recorder.take(answer.answer_id), answer)
            first_ms.append(ms)
            token_ms += later_ms
    if len(token_ms) < 2:
        raise CliError("The answers could not be told apart token by token: ask for more with --tokens.")
    return {"token_ms": token_ms, "ttft_ms": first_ms}


def _other_threads_s() -> float:
    """Seconds of CPU that this process took outside the calling thread."""
    return time.process_time() - time.thread_time()


async def measure_pure_cost(
    generator: Generator, num_tokens: int, repeats: int, show: Show, clock: Clock = _other_threads_s
) -> Added:
    """From a generator that takes no time: the gateway's CPU time less the generator's own.

    The gateway has a thread to itself, so the client is not counted. Nothing is waited for, so CPU time is
    the time on an idle machine. The first token is that of an answer with no other, as the work on later
    ones would be counted with it. Raises `CliError`.
    """

    async def alone_s(num: int) -> float:
        """Seconds of CPU that the generator takes for itself."""
        sampling = Sampling(num, ignore_eos=True)
        request = GenerationRequest(f"bench-{uuid.uuid4().hex}", (1,), sampling, Route.COLLABORATIVE)
        started_s = time.process_time()
        async for _ in generator.generate(request):
            pass
        return time.process_time() - started_s

    first_ms: list[float] = []
    token_ms: list[float] = []
    short, long = ({**_QUESTION, **exactly(num)} for num in (1, num_tokens))
    async with _gateway_in_a_thread(generator) as url, connected(url, clock=clock) as client:
        await client.stream(short)
        for number in range(repeats):
            show(f"Round {number + 1} of {repeats}")
            first_ms.append(((await client.stream(short)).ttft_s - await alone_s(1)) * 1e3)
            total_s = (await client.stream(long)).total_s
            token_ms.append((total_s - await alone_s(num_tokens)) * 1e3 / num_tokens)
    return {"token_ms": token_ms, "ttft_ms": first_ms}


def instant_generator(num_tokens: int) -> FakeGenerator:
    """Gives `num_tokens` tokens, one a chunk, without a delay."""
    bundle = fake_tokenizer_bundle([_TEXT])
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    token_ids = tokenizer.encode(_TEXT).ids
    target = TargetInfo("instant", 2 * num_tokens + 512, tokenizer.get_vocab_size())
    return FakeGenerator(target, bundle, Script(tuple((token_ids * num_tokens)[:num_tokens])))


@asynccontextmanager
async def _gateway_in_a_thread(generator: Generator) -> AsyncIterator[str]:
    """`hosted_gateway` in a thread of its own, so that its CPU time can be told apart."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    url: asyncio.Future[str] = loop.create_future()

    async def serve() -> None:
        async with hosted_gateway(generator) as base_url:
            loop.call_soon_threadsafe(url.set_result, base_url)
            await asyncio.to_thread(left.wait)

    serving = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    try:
        first: set[asyncio.Future[Any]] = {url, serving}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving  # raises what kept it from starting
        yield await url
    finally:
        left.set()
        await serving


def _p90(samples: Sequence[float]) -> float:
    return quantiles(samples, n=10, method="inclusive")[-1]


def describe_cost(name: str, added: Added) -> list[str]:
    """What HTTP and gateway add, on the generator called `name`."""
    return [
        f"added to {what} ({name}): {median(added[key]):.3f} ms (median of {len(added[key])}; "
        f"p90 {_p90(added[key]):.3f} ms); limit {limit_ms:g} ms"
        for key, (what, limit_ms) in _ADDED_MS.items()
    ]
