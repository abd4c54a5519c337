"""`pipesd bench sim`: policies and modes in the testbed's scenarios on virtual time, and beside real runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.harness.options import Flags, JsonFile, names_in, numbers_in
from benchmarks.harness.rivals import Rival, Wire, parse_rivals
from benchmarks.scenarios.loading import load_scenario
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError

if TYPE_CHECKING:  # it brings vLLM along, which takes seconds
    from benchmarks.sim.scenarios import Cell
    from benchmarks.sim.speed import Row

__all__ = ["cells_of", "sim", "slower"]

_SCENARIOS: Final = "scenario-1,scenario-2,scenario-3,scenario-4,fast-edge,far"
_QUICK: Final = ["scenario-1", "fast-edge"], ["gpu-15"]
_PAIR: Final = "minus-3-layers"
"""That of the testbed's scenarios."""
_POLICIES: Final = "cloud,vanilla:thin,hsl:thin,edgellm:thin,pipesd:thin,adaptive"
_TICKS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 3)
_SLOWER: Final = 0.995
"""Below it a speedup counts as slower: what rounding and the first answer's probes make is none."""


def sim(
    flags: Flags,
    scenarios: Annotated[
        str, typer.Option("--scenarios", metavar="A,B", help="As --scenario of `pipesd bench run`.")
    ] = _SCENARIOS,
    costs: Annotated[
        str, typer.Option("--costs", metavar="A,B", help="gpu-7, gpu-15, gpu-30, h100-8b, cpu.")
    ] = "gpu-7,gpu-15,gpu-30,h100-8b",
    policies: Annotated[
        str, typer.Option("--policies", metavar="A,B", help="As for `pipesd bench run`, on the thin wire.")
    ] = _POLICIES,
    pair: Annotated[
        str, typer.Option("--pair", metavar="NAME", help="Record of a pair of models, or FILE.json.")
    ] = _PAIR,
    categories: Annotated[
        str | None,
        typer.Option("--categories", metavar="A,B", help="Of the record's prompts.", show_default=False),
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of each category.")] = 4,
    temperature: Annotated[float, typer.Option("--temperature", help="Replay answers sampled at it.")] = 0.0,
    sources: Annotated[
        str,
        typer.Option("--sources", metavar="A,B", help="Also our default from one source: model, lookup."),
    ] = "model,lookup",
    edges: Annotated[
        str, typer.Option("--edges", metavar="N,M", help="Edges on the one server, up to about 300.")
    ] = "1",
    quick: Annotated[bool, typer.Option("--quick", help="Two scenarios, one server.")] = False,
    against_real: Annotated[
        bool,
        typer.Option(
            "--against-real", help="Lay simulated beside real runs of the same plans, on a server here."
        ),
    ] = False,
    json_file: JsonFile = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw speedups.", show_default=False)
    ] = None,
) -> None:
    """Measure policies and modes against plain streaming on virtual time, without noise.

    Both sides' real code runs; what engines, drafts and links cost is given, what drafts are worth was
    recorded. Speedup = TPT of plain streaming / TPT: above 1 is faster. Ctrl-C ends it with what is there.
    """
    chosen = [
        rival for rival in parse_rivals(names_in(policies, "--policies")) if rival.wire is not Wire.PUBLISHED
    ]
    names = _QUICK[0] if quick else names_in(scenarios, "--scenarios")
    servers = _QUICK[1] if quick else names_in(costs, "--costs")
    counts = numbers_in(edges, "--edges")
    also = names_in(sources, "--sources", ("model", "lookup")) if sources else ()
    if against_real:
        from benchmarks.sim.against import lay_beside_real

        lay_beside_real(flags, names, chosen, counts, pair, prompts, json_file)
        return
    wanted = names_in(categories, "--categories") if categories else None
    cells = cells_of(
        names, servers, pair, counts, categories=wanted, num_prompts=prompts, temperature=temperature
    )
    console = Console(highlight=False)
    rows = _run(cells, chosen, also)
    console.print(*_tables(rows), sep="\n")
    if any(row.is_default for row in rows):
        console.print(by_source(rows))
    console.print(slower(rows))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    if picture is not None:
        _draw(rows, picture)


def cells_of(
    scenarios: Sequence[str],
    costs: Sequence[str],
    pair: str,
    counts: Sequence[int] = (1,),
    *,
    categories: Sequence[str] | None = None,
    num_prompts: int = 4,
    temperature: float = 0.0,
) -> list[Cell]:
    """Every combination, by scenario, costs, edges and category. Raises `CliError`."""
    from benchmarks.sim.agreements import read_pair
    from benchmarks.sim.costs import costs_named
    from benchmarks.sim.models import replayed
    from benchmarks.sim.scenarios import Cell

    by_category: dict[str, list[int]] = {}
    for number, answer in enumerate(read_pair(pair).answers):
        if answer.temperature == temperature and len(answer.tokens) >= 2:
            by_category.setdefault(answer.category, []).append(number)
    known = categories or list(by_category)
    if not by_category or not set(known) <= set(by_category):
        raise CliError(f"{pair} has answers at {temperature:g} of {', '.join(by_category) or 'no category'}.")
    return [
        Cell(
            scenario=scenario,
            costs=costs_named(name),
            costs_name=name,
            pair=pair,
            category=category,
            answers=tuple(replayed(pair)[number] for number in by_category[category][:num_prompts]),
            num_edges=count,
        )
        for scenario, name, count, category in product(map(load_scenario, scenarios), costs, counts, known)
    ]


def _run(cells: Sequence[Cell], rivals: Sequence[Rival], sources: Sequence[str]) -> list[Row]:
    """As many rows as there was time for."""
    from benchmarks.sim.scenarios import Sources
    from benchmarks.sim.speed import is_default, measured

    also = [Sources(name) for name in sources]
    rows: list[Row] = []
    num_runs = 1 + len(rivals) + len(also) * sum(map(is_default, rivals))
    began_s, done, total = time.monotonic(), 0, len(cells) * num_runs
    try:
        with live_status() as show:
            for cell in cells:

                def note(cell: Cell = cell) -> None:
                    nonlocal done
                    done += 1
                    left_s = (time.monotonic() - began_s) / done * (total - done)
                    show(f"{cell.name}, {cell.category}: run {done} of {total}, about {left_s:.0f} s left")

                rows += measured(cell, rivals, note, also)
    except KeyboardInterrupt:
        pass
    return rows


def slower(rows: Sequence[Row]) -> str:
    """In how many cells a mode of ours is slower than plain streaming."""
    ours = [row for row in rows if row.policy == "adaptive" and row.sources == "both"]
    lines = []
    for mode in dict.fromkeys(row.mode for row in ours):
        of_mode = [row for row in ours if row.mode == mode]
        num_slower = sum(row.speedup < _SLOWER for row in of_mode)
        default = " (default)" if of_mode[0].is_default else ""
        lines.append(f"{mode}{default}: slower than streaming in {num_slower} of {len(of_mode)} cells")
    return "\n".join(lines)


def by_source(rows: Sequence[Row]) -> Table:
    """Our default by category and sources: mean speedup over all scenarios, and target passes a token."""
    default = next(row for row in rows if row.is_default)
    ours = [row for row in rows if (row.policy, row.mode) == (default.policy, default.mode)]
    sources = list(dict.fromkeys(row.sources for row in ours))
    title = f"{default.mode} by source of drafts: mean speedup (target passes a token); *: texts by hand"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    for name in sources:
        table.add_column(name, justify="right", no_wrap=True)
    for category in dict.fromkeys(row.category for row in ours):
        of_category = [row for row in ours if row.category == category]
        cells = []
        for name in sources:
            found = [row for row in of_category if row.sources == name]
            speedup = fmean(row.speedup for row in found)
            passes = fmean(row.target_passes_per_token for row in found)
            cells.append(f"{speedup:.2f} ({passes:.2f})")
        table.add_row(category + "*" * of_category[0].constructed, *cells)
    return table


def _tables(rows: Sequence[Row]) -> list[Table]:
    """Speedups, one table a category, a line a scenario."""
    tables = []
    for category in dict.fromkeys(row.category for row in rows):
        of_category = [row for row in rows if row.category == category]
        labels = list(dict.fromkeys(row.label for row in of_category))
        title = f"{category}: speedup over plain streaming, above 1 is faster"
        table = Table(
            title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False
        )
        table.add_column("", no_wrap=True)
        table.add_column("ms", justify="right", no_wrap=True)
        for label in labels:
            table.add_column(_heading(label), justify="right", no_wrap=True)
        for scenario in dict.fromkeys(row.scenario for row in of_category):
            found = {row.label: row for row in of_category if row.scenario == scenario}
            cells = [f"{row.speedup:.2f}" if row else "-" for row in map(found.get, labels)]
            table.add_row(scenario, f"{next(iter(found.values())).streaming_tpt_ms:.1f}", *cells)
        tables.append(table)
    return tables


def _heading(label: str) -> str:
    """In lines of a few letters, so that a table fits into 80 characters; ours goes by its mode."""
    word = label.split()[-1]
    return "\n".join(word[start : start + 6] for start in range(0, len(word), 6))


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Speedups, a panel a server: bars of all rivals by scenario, the mean over categories."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    split = [row.scenario.partition(" ") for row in rows]
    servers = list(dict.fromkeys(costs for _, _, costs in split))
    scenarios = list(dict.fromkeys(scenario for scenario, _, _ in split))
    labels = [label for label in dict.fromkeys(row.label for row in rows) if label != "cloud"]
    figure = Figure(figsize=(11.0, 2.6 * len(servers)), layout="constrained")
    panels = figure.subplots(len(servers), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    width = 0.85 / max(1, len(labels))
    for axes, server in zip(panels, servers, strict=True):
        for number, label in enumerate(labels):
            points = [
                (place + (number + 0.5) * width - 0.425, sum(speedups) / len(speedups))
                for place, scenario in enumerate(scenarios)
                if (
                    speedups := [
                        row.speedup
                        for row in rows
                        if row.label == label and row.scenario == f"{scenario} {server}"
                    ]
                )
            ]
            heights = [speedup - 1.0 for _, speedup in points]
            axes.bar([place for place, _ in points], heights, width, bottom=1.0, label=label)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        axes.minorticks_off()
        axes.set_xticks(range(len(scenarios)), scenarios)
        axes.set_title(f"{server}: speedup over plain streaming (above 1 is faster)", fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
