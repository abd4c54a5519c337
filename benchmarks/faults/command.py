"""`pipesd bench faults`: processes and connections fail in mid-answer, and every answer is judged."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.stage import open_stage, running_servers
from benchmarks.faults.trials import Row, Trials, table
from benchmarks.harness.options import Flags, JsonFile
from benchmarks.reports.records import write_json
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError

__all__ = ["counts_of", "faults"]

_STARTS_A_SERVER: Final = ("server-kill", "server-drain", "replica-kill", "replica-drain")
_DEFAULT: Final = {name: 1 if name in _STARTS_A_SERVER else 3 for name in FAULTS}


def faults(
    flags: Flags,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            help="One fault and how often, such as cut=20; may be repeated. Default: each some times.",
            metavar="NAME=COUNT",
            show_default=False,
        ),
    ] = None,
    chats: Annotated[
        int, typer.Option("--chats", min=1, help="Answers under way when a fault strikes, at each gateway.")
    ] = 6,
    seed: Annotated[int, typer.Option("--seed", help="Of the moments at which faults strike.")] = 0,
    logs: Annotated[
        Path | None,
        typer.Option(
            "--logs", help="Keep the logs of servers and edges here.", metavar="DIR", show_default=False
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Kill, stop, drain and cut off the real processes in mid-answer, and compare every answer.

    Servers, `pipesd edge` with its gateway, and a client, each a process of its own. Answers at temperature
    0 and 1, under a schema, with a tool and with n=2, in all modes, are compared with the target's own. With
    --fallback wait each must be whole; with error and local, where a fault is tried with those, it may end
    as the setting says. Exits 1 if anything is found.
    """
    counts = counts_of(faults)
    rows: list[Row] = []
    out = Console(highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        for num_servers in sorted({FAULTS[name].num_servers for name in counts}):
            chosen = {name: num for name, num in counts.items() if FAULTS[name].num_servers == num_servers}
            rows += _on(flags, num_servers, chosen, chats, seed, logs or Path(folder), out)
    out.print(*table(rows), sep="\n")
    if json_file is not None:
        write_json(json_file, {"chats": chats, "seed": seed, "rows": [row.as_json() for row in rows]})
    if any(row.num_findings for row in rows):
        raise typer.Exit(1)


def counts_of(given: Sequence[str] | None) -> dict[str, int]:
    """The counts by fault. Raises `CliError` for what is no fault or no count."""
    counts = {}
    for part in given or [f"{name}={count}" for name, count in _DEFAULT.items()]:
        name, _, count = part.partition("=")
        if name not in FAULTS or not (count or "1").isdecimal():
            raise CliError(
                f"No fault is {part!r}: give NAME=COUNT with one of {', '.join(FAULTS)}.", exit_code=2
            )
        counts[name] = int(count or 1)
    return counts


def _on(
    flags: Flags,
    num_servers: int,
    counts: Mapping[str, int],
    chats: int,
    seed: int,
    folder: Path,
    out: Console,
) -> list[Row]:
    with running_servers(flags, num_servers, folder) as (servers, settings):

        async def run() -> list[Row]:
            fallbacks = dict.fromkeys(each for name in counts for each in FAULTS[name].fallbacks)
            rows = []
            async with open_stage(servers, settings, fallbacks, folder) as stage:
                with live_status() as show:
                    trials = Trials(stage, chats, random.Random(seed), show)
                    await trials.prepare()
                    for name, count in counts.items():
                        rows.append(await trials.try_out(name, count))
                        out.print(*rows[-1].findings, *rows[-1].leaked, table(rows[-1:])[-1], sep="\n")
            return rows

        return asyncio.run(run())
