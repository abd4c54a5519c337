"""`pipesd bench simulate`: the model's estimates, and how far they are from the testbed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness import options
from benchmarks.harness.rivals import Rival, parse_rivals
from benchmarks.netlink.model import LinkSpec, PathSpec
from benchmarks.simulation.agreement import TracePoint
from benchmarks.simulation.costs import Costs

__all__ = ["simulate"]

_PANEL: Final = "Model"


def simulate(
    traces: Annotated[
        Path, typer.Option("--traces", metavar="FILE", help="Traces of (agreement, confidence).")
    ],
    record: Annotated[
        int, typer.Option("--record", min=0, help="First record FILE: so many prompts of each data set.")
    ] = 0,
    draft: Annotated[
        str, typer.Option("--draft", help="Draft to record.", metavar="MODEL")
    ] = "minus-3-layers",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens to record a prompt.")] = 64,
    specbench: options.SpecBench = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="DIR", help="Compare with results made with --traces.", show_default=False
        ),
    ] = None,
    policies: Annotated[
        str, typer.Option("--policies", metavar="A,B")
    ] = "cloud,vanilla:thin,pipesd:published,pipesd:thin,adaptive",
    gamma_ms: Annotated[
        float, typer.Option("--gamma-ms", help="A draft token.", rich_help_panel=_PANEL)
    ] = 8.0,
    step_ms: Annotated[
        float, typer.Option("--step-ms", help="A target pass over one token.", rich_help_panel=_PANEL)
    ] = 40.0,
    token_ms: Annotated[
        float, typer.Option("--token-ms", help="Each further token of a pass.", rich_help_panel=_PANEL)
    ] = 0.5,
    rtt_ms: Annotated[float, typer.Option("--rtt-ms", rich_help_panel=_PANEL)] = 30.0,
    up_mbit: Annotated[float, typer.Option("--up-mbit", rich_help_panel=_PANEL)] = 20.0,
    edges: Annotated[
        str, typer.Option("--edges", metavar="N,M", help="Edges on the one server.", rich_help_panel=_PANEL)
    ] = "1",
    max_seqs: Annotated[
        int, typer.Option("--max-seqs", help="Sessions in a step.", rich_help_panel=_PANEL)
    ] = 256,
) -> None:
    """Estimate rivals with a discrete-event model: other speeds and links, up to 10,000 edges a server.

    These are estimates, never measurements; --check says how far they are from some.
    """
    from benchmarks.simulation.traces import read_traces

    if record:
        _record(traces, draft, record, tokens, specbench, check)
    found = read_traces(traces).traces
    out = Console(highlight=False)
    if check is not None:
        _check(check, found, out)
        return
    path = PathSpec(LinkSpec(delay_ms=rtt_ms / 2, mbit=up_mbit), LinkSpec(delay_ms=rtt_ms / 2))
    costs = Costs(gamma_ms / 1e3, step_ms / 1e3, token_ms / 1e3, max_seqs=max_seqs)
    out.print(
        _table([int(n) for n in edges.split(",")], parse_rivals(policies.split(",")), found, costs, path)
    )


def _record(
    file: Path, draft: str, num: int, num_tokens: int, specbench: Path | None, check: Path | None
) -> None:
    from benchmarks.harness.prompts import load_datasets, tokenised
    from benchmarks.pairs.catalog import Catalog
    from benchmarks.reports.records import read_results
    from benchmarks.simulation.agreement import loaded, target_text
    from benchmarks.simulation.traces import TraceSet, record_traces, write_traces
    from openai_gateway.cli.console import live_status

    names = {r.prompt for r in read_results(check).records} if check is not None else None
    with live_status() as show:
        catalog = Catalog(show=show)
        text = target_text(Path(catalog.target("depth-x2")))
        chosen = [
            prompt
            for of_dataset in load_datasets(None, specbench).values()
            for i, prompt in enumerate(of_dataset)
            if (i < num if names is None else prompt.name in names)
        ]
        prompts = {p.name: asyncio.run(tokenised(p, text)).token_ids for p in chosen}
        show(f"Recording {len(prompts)} traces")
        made = record_traces(loaded("embedded"), loaded(catalog.draft(draft)), prompts, num_tokens)
        write_traces(file, TraceSet(draft, made))


def _check(folder: Path, traces: Mapping[str, Sequence[TracePoint]], out: Console) -> None:
    from benchmarks.reports.records import read_results
    from benchmarks.simulation.check import compare, costs_of_run

    results = read_results(folder)
    table = Table("scenario", "data set", "rival", "measured, ms", "simulated, ms", "error")
    for name, description in results.descriptions.items():
        costs = costs_of_run(folder, description)
        out.print(f"{name}: {msgspec.json.encode(costs).decode()}", soft_wrap=True)
        for c in compare(results.records, traces, description, costs):
            measured, simulated = f"{c.measured_ms:.1f}", f"{c.simulated_ms:.1f}"
            table.add_row(name, c.dataset, c.label, measured, simulated, f"{c.error:+.0%}")
    out.print(table)


def _table(
    counts: Sequence[int],
    rivals: Sequence[Rival],
    found: Mapping[str, Sequence[TracePoint]],
    costs: Costs,
    path: PathSpec,
) -> Table:
    from benchmarks.simulation.simulate import simulate as run
    from benchmarks.simulation.simulate import simulate_all

    texts = list(found.values())
    table = Table(
        "rival", "edges", "TPT, ms", "passes / token", "engine busy", title="Estimates of the model"
    )
    for rival in rivals:
        for count in counts:
            if count == 1:
                o = simulate_all(rival, texts, costs, path)
            else:
                many = [texts[i % len(texts)] for i in range(count)]
                o = run(rival, many, costs, path, spread_s=1.0)
            cells = f"{o.tpt_ms:.1f}", f"{o.target_passes_per_token:.3f}", f"{o.engine_busy_share:.0%}"
            table.add_row(rival.label, str(count), *cells)
    return table
