"""`pipesd bench capacity`: what a server gives as its users become more, on virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.harness.options import JsonFile, names_in, numbers_in
from edge_agent.api import SessionMode
from openai_gateway.cli.console import live_status

if TYPE_CHECKING:  # it brings vLLM along, which takes seconds
    from benchmarks.sim.capacity import Row

__all__ = ["capacity"]


def capacity(
    costs: Annotated[
        str, typer.Option("--costs", metavar="A,B", help="gpu-7, gpu-15, gpu-30, h100-8b, cpu, cpu-rows.")
    ] = "h100-8b",
    edges: Annotated[str, typer.Option("--edges", metavar="N,M", help="Edges on the server.")] = "1,4,16,64",
    plain: Annotated[
        str, typer.Option("--plain", metavar="N,M", help="Plain clients beside each number of edges.")
    ] = "0",
    junk: Annotated[
        int, typer.Option("--junk", min=0, help="Edges more that send wrong drafts, said to be certain.")
    ] = 0,
    modes: Annotated[str, typer.Option("--modes", metavar="A,B", help="Of the edges.")] = "auto",
    ways: Annotated[
        str, typer.Option("--ways", metavar="A,B", help="plain, n-gram, no budget, ours.")
    ] = "plain,n-gram,no budget,ours",
    rtt_ms: Annotated[float, typer.Option("--rtt-ms", min=0.0, help="Round trip of the edges.")] = 30.0,
    draft_ms: Annotated[float, typer.Option("--draft-ms", min=0.1, help="A draft token takes it.")] = 4.0,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Answers of each client.")] = 3,
    pair: Annotated[
        str, typer.Option("--pair", metavar="NAME", help="Record of a pair of models.")
    ] = "minus-3-layers",
    equal: Annotated[
        bool, typer.Option("--equal", help="All ask the same, so that their parts can be compared.")
    ] = False,
    json_file: JsonFile = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw rates.", show_default=False)
    ] = None,
) -> None:
    """Measure tokens/s, TPT, TTFT and fairness as edges and plain clients become more, on virtual time.

    Both sides' real code and vLLM's real scheduler run; what steps, drafts and links cost is given, what
    drafts are worth was recorded. Ctrl-C ends it with what is there.
    """
    from benchmarks.sim.capacity import Crowd, Way, measured
    from benchmarks.sim.costs import costs_named

    chosen = [Way(way) for way in names_in(ways, "--ways", list(Way))]
    wanted = [SessionMode(mode) for mode in names_in(modes, "--modes", list(SessionMode))]
    counts = list(product(numbers_in(edges, "--edges", 0), numbers_in(plain, "--plain", 0)))
    crowds = [
        Crowd(costs_named(name), name, n, m, junk, rtt_ms / 1e3, draft_ms / 1e3, mode, turns, pair, equal)
        for name in names_in(costs, "--costs")
        for n, m in counts
        for mode in wanted
    ]
    rows: list[Row] = []
    try:
        with live_status() as show:
            for crowd in crowds:
                for way in chosen:
                    show(f"{crowd.costs_name}, {crowd.edges} edges, {crowd.plain} plain, {crowd.mode}: {way}")
                    rows.append(measured(crowd, way))
    except KeyboardInterrupt:
        pass
    Console(highlight=False).print(table_of(rows))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    if picture is not None:
        draw(rows, picture)


def _plain_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The same crowd, streamed to."""
    key = row.costs, row.edges, row.plain, row.junk, row.mode
    return next(
        (r for r in rows if (r.costs, r.edges, r.plain, r.junk, r.mode) == key and r.way == "plain"), None
    )


def table_of(rows: Sequence[Row]) -> Table:
    """A line for each crowd and way; ratios are those to plain streaming of the same crowd."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    names = (
        "costs|edges|plain|mode|way|tokens/s|over plain|neighbours|TPT p50|p95|TTFT p95|Jain|passes|drafts"
    )
    for name in names.split("|"):
        table.add_column(name, justify="left" if name in ("costs", "mode", "way") else "right", no_wrap=True)
    for row in rows:
        base = _plain_of(row, rows)
        ratio = f"{row.tokens_per_s / base.tokens_per_s:.3f}" if base else "-"
        beside = (
            f"{row.plain_tokens_per_s / base.plain_tokens_per_s:.3f}"
            if base and base.plain_tokens_per_s
            else "-"
        )
        table.add_row(
            row.costs,
            str(row.edges),
            f"{row.plain}" + (f" +{row.junk} junk" if row.junk else ""),
            row.mode,
            row.way,
            f"{row.tokens_per_s:.1f}",
            ratio,
            beside,
            f"{row.tpt_p50_ms:.1f}",
            f"{row.tpt_p95_ms:.1f}",
            f"{row.ttft_p95_ms:.0f}",
            f"{row.jain:.3f}",
            f"{row.passes_per_token:.2f}",
            f"{row.drafted_per_token:.2f}",
        )
    return table


def draw(rows: Sequence[Row], path: Path) -> None:
    """Tokens/s and p95 TPT over the number of edges, a line for each way and mode."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    servers = list(dict.fromkeys(row.costs for row in rows))
    figure = Figure(figsize=(11.0, 3.4 * len(servers)), layout="constrained")
    panels = figure.subplots(len(servers), 2, squeeze=False)
    for (rates, times), server in zip(panels, servers, strict=True):
        for way, mode in dict.fromkeys((row.way, row.mode) for row in rows):
            own = [row for row in rows if (row.costs, row.way, row.mode) == (server, way, mode)]
            xs = [row.edges for row in own]
            label = f"{way} {mode}" if way in ("ours", "no budget") else way
            rates.plot(xs, [row.tokens_per_s for row in own], marker="o", markersize=3, label=label)
            times.plot(xs, [row.tpt_p95_ms for row in own], marker="o", markersize=3, label=label)
        rates.set_title(f"{server}: tokens/s in all", fontsize=10)
        times.set_title(f"{server}: p95 TPT of the edges' answers, ms", fontsize=10)
        for axes in (rates, times):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("edges")
            axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
