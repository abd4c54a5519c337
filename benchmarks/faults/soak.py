"""`pipesd bench soak`: chats for an hour, a fault every few seconds, and what processes hold meanwhile."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import msgspec
import psutil
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.faults.answers import ASKS, Answer, Expected, Verdict, judge, read
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.stage import Process, Stage, open_stage, running_servers
from benchmarks.faults.trials import FINDINGS
from benchmarks.harness.options import Flags, JsonFile
from benchmarks.reports.records import write_json
from edge_agent.api import Fallback
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError

__all__ = ["Sample", "Soaked", "describe", "draw", "grown", "soak"]

_FAULTS: Final = ("cut", "cut-frame", "refused", "hole-up", "hole-down", "server-stop", "edge-stop")
"""Those after which every answer must be whole, and no process has another number."""
_EVERY_S: Final = 2.0
_SETTLE_S: Final = 20.0
"""After the last answer, before what is left counts."""
_FLAT_SHARE: Final = 0.05
"""Memory that grows by less than this share in the second half counts as flat: the first fills caches."""
_OF_SERVER: Final = {
    "pipesd_open_turns": "turns",
    "pipesd_connections": "connections",
    "vllm:num_requests_running": "sequences",
    "vllm:kv_cache_usage_perc": "KV share",
}


class Sample(msgspec.Struct, frozen=True):
    """What the processes hold at one moment; a name is a curve."""

    at_s: float
    values: dict[str, float]


@dataclass(slots=True)
class Soaked:
    """What came of it."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    """What must be 0 once all is over and is not."""


def soak(
    flags: Flags,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.1, help="How long chats are under way.")
    ] = 60.0,
    chats: Annotated[int, typer.Option("--chats", min=1, help="Answers under way at a time.")] = 32,
    every_s: Annotated[float, typer.Option("--every-s", min=0.5, help="Mean time between two faults.")] = 8.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the faults and their moments.")] = 0,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="Draw the curves into this file.", metavar="PNG", show_default=False),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Answer chats for an hour while connections are cut, held and refused and processes are stopped.

    Memory, threads, sockets and files of server and edge, turns, sequences and KV blocks are read every two
    seconds; so is the gateway's page. Exits 1 if an answer is not the target's own, if something is left in
    the end, or if memory grows.
    """
    out = Console(highlight=False, markup=False, soft_wrap=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_servers(flags, 1, Path(folder)) as (servers, settings),
        live_status() as show,
    ):

        async def run() -> Soaked:
            async with open_stage(servers, settings, (Fallback.WAIT,), Path(folder)) as stage:
                show("The target's own answers")
                expected = await stage.expected(ASKS)
                show(f"{chats} chats for {minutes:g} minutes")
                return await _soak(stage, expected, minutes * 60.0, chats, every_s, random.Random(seed))

        soaked = asyncio.run(run())
    out.print(*describe(soaked), *soaked.findings[:10], sep="\n")
    if picture is not None:
        draw(soaked.samples, picture)
    if json_file is not None:
        write_json(json_file, _as_json(soaked))
    if _problems(soaked):
        raise typer.Exit(1)


async def _soak(
    stage: Stage,
    expected: Mapping[str, Expected],
    length_s: float,
    num_chats: int,
    every_s: float,
    rng: random.Random,
) -> Soaked:
    soaked, start_s = Soaked(), time.monotonic()
    end_s = start_s + length_s

    async def chat(number: int) -> None:
        while time.monotonic() < end_s:
            ask, answer = ASKS[number % len(ASKS)], Answer()
            number += 1
            await read(stage.clients[Fallback.WAIT], ask, stage.model, answer)
            verdict = judge(ask, answer, expected[ask.name], Fallback.WAIT)
            soaked.verdicts[verdict] += 1
            if verdict in FINDINGS:
                ends = f"error {answer.error_code}, broken {answer.broken}, {answer.num_tokens} tokens"
                soaked.findings.append(
                    f"at {time.monotonic() - start_s:.0f} s: {ask.name}: {verdict} ({ends})"
                )

    async def strike() -> None:
        while time.monotonic() < end_s:
            await asyncio.sleep(rng.uniform(0.5, 1.5) * every_s)
            name = rng.choice(_FAULTS)
            soaked.faults[name] += 1
            await FAULTS[name].act(stage, rng)

    async def watch() -> None:
        while True:
            soaked.samples.append(Sample(time.monotonic() - start_s, await _held(stage)))
            await asyncio.sleep(_EVERY_S)

    watching, striking = asyncio.create_task(watch()), asyncio.create_task(strike())
    try:
        await asyncio.gather(*(chat(number) for number in range(num_chats)))
        await striking
        await asyncio.sleep(_SETTLE_S)
    finally:
        for task in (watching, striking):
            task.cancel()
        await asyncio.gather(watching, striking, return_exceptions=True)
    last = await _held(stage)
    soaked.left = {
        name: last[name] for name in ("turns", "sequences", "KV share", "requests") if last.get(name)
    }
    return soaked


async def _held(stage: Stage) -> dict[str, float]:
    """By psutil, and by what the processes tell; a page that does not come is left out."""
    gateway, (server,) = stage.gateways[Fallback.WAIT], stage.servers
    held = {
        f"{who} {name}": value
        for who, process in (("edge", gateway), ("server", server))
        for name, value in _of_process(process).items()
    }
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
        for process, names in (
            (server, _OF_SERVER),
            (gateway, {"vllm:num_requests_running": "requests"}),
        ):
            try:
                page = (await client.get(f"{process.process.base_url}/metrics")).text
                if process is gateway:
                    await client.get(f"{process.process.base_url}/")  # as an open page does
            except httpx.HTTPError:
                continue  # stopped, by us
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    if sample.name in names:
                        held[names[sample.name]] = held.get(names[sample.name], 0.0) + sample.value
    return held


def _of_process(process: Process) -> dict[str, float]:
    """Of a process and all that it started."""
    found = Counter[str]()
    leader = psutil.Process(process.process.pid)
    for each in (leader, *leader.children(recursive=True)):
        try:
            found["MB"] += each.memory_info().rss / 1e6
            found["threads"] += each.num_threads()
            found["sockets"] += len(each.net_connections("tcp"))
            found["files"] += each.num_fds()
        except psutil.Error:
            continue
    return dict(found)


def grown(samples: Sequence[Sample], name: str) -> float | None:
    """By which share the curve's mean over the last tenth exceeds that over the tenth in the middle."""
    values = [sample.values[name] for sample in samples if name in sample.values]
    tenth = len(values) // 10
    if not tenth:
        return None
    middle = len(values) // 2
    before, after = (sum(part) / tenth for part in (values[middle : middle + tenth], values[-tenth:]))
    return after / before - 1 if before else None


def _growing(soaked: Soaked) -> list[str]:
    names = ("edge MB", "server MB")
    return [name for name in names if (grown(soaked.samples, name) or 0.0) > _FLAT_SHARE]


def _problems(soaked: Soaked) -> bool:
    return bool(soaked.findings or soaked.left or _growing(soaked))


def describe(soaked: Soaked) -> list[str]:
    """Answers, faults, and each curve: start, middle, end, and how much it grew in the second half."""
    verdicts = ", ".join(f"{soaked.verdicts[verdict]} {verdict}" for verdict in Verdict)
    faults = ", ".join(f"{count} {name}" for name, count in sorted(soaked.faults.items()))
    lines = [f"answers: {verdicts}", f"faults: {soaked.faults.total()} ({faults})"]
    for name in dict.fromkeys(name for sample in soaked.samples for name in sample.values):
        values = [sample.values[name] for sample in soaked.samples if name in sample.values]
        more = grown(soaked.samples, name)
        growth = "" if more is None else f", {more:+.1%} in the second half"
        lines.append(
            f"{name}: {values[0]:g} at the start, {values[len(values) // 2]:g} in the middle, "
            f"{values[-1]:g} at the end, {max(values):g} at most{growth}"
        )
    return [
        *lines,
        f"left in the end: {soaked.left or 'nothing'}",
        f"growing: {_growing(soaked) or 'nothing'}",
    ]


def _as_json(soaked: Soaked) -> dict[str, Any]:
    return {
        "answers": {str(verdict): soaked.verdicts[verdict] for verdict in Verdict},
        "faults": dict(soaked.faults),
        "left": soaked.left,
        "growing": _growing(soaked),
        "findings": soaked.findings,
        "samples": soaked.samples,
    }


def draw(samples: Sequence[Sample], path: Path) -> None:
    """A panel a unit, minutes from left to right. Raises `CliError` if the file cannot be written."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    panels = (
        ("MB", ("edge MB", "server MB")),
        ("number", ("edge threads", "server threads", "edge sockets", "server sockets")),
        ("open files", ("edge files", "server files")),
        ("number", ("turns", "connections", "sequences", "requests")),
        ("share of KV blocks", ("KV share",)),
    )
    figure = Figure(figsize=(9.0, 10.0), layout="constrained")
    for axes, (unit, names) in zip(figure.subplots(len(panels), 1, sharex=True), panels, strict=True):
        for name in names:
            points = [(each.at_s / 60, each.values[name]) for each in samples if name in each.values]
            axes.plot([at for at, _ in points], [value for _, value in points], label=name, linewidth=0.9)
        axes.set_ylabel(unit, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_xlabel("minutes")
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise CliError(f"Cannot draw into {path} ({error.strerror}): name another file.") from error
