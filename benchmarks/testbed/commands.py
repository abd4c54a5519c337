"""`pipesd bench pairs`, `run` and `report`: the testbed's commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.harness import options
from openai_gateway.cli import options as edge_options

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.testbed.results import Results

__all__ = ["pairs", "report", "run"]

Seeds = Annotated[int, typer.Option("--seeds", min=1, help="How often, each time with other prompts.")]


def pairs(
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens compared a prompt.")] = 64,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of each data set.")] = 4,
    depth: Annotated[int, typer.Option("--depth", min=2, max=9, help="Depth factor of the target.")] = 2,
    specbench: options.SpecBench = None,
) -> None:
    """Make the drafts and the padded target that scenarios name, and measure how often they agree."""
    from benchmarks.datasets import find_specbench
    from benchmarks.pairs.listing import make_pairs

    make_pairs(tokens, prompts, depth, find_specbench(specbench))


def run(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")],
    scenario: Annotated[
        list[str], typer.Option("--scenario", metavar="NAME", help="Name or TOML file; may be repeated.")
    ],
    policies: Annotated[
        str,
        typer.Option(
            "--policies",
            metavar="A,B",
            help="cloud, local, vanilla, hsl, edgellm, pipesd, adaptive, or a variant such as pipesd:thin, "
            "adaptive:offload.",
        ),
    ] = "cloud,local,vanilla,hsl,edgellm,pipesd,adaptive",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens to generate a prompt.")] = 64,
    seeds: Seeds = 3,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of each data set, a seed.")] = 2,
    datasets: Annotated[
        str | None,
        typer.Option("--datasets", metavar="A,B", help="humaneval, gsm8k.", show_default=False),
    ] = None,
    specbench: options.SpecBench = None,
    link: Annotated[
        str, typer.Option("--link", help="tun (needs root), proxy, or auto: the first that works.")
    ] = "auto",
    target: options.Target = None,
    dtype: options.Dtype = None,
    draft: edge_options.Draft = None,
    draft_threads: edge_options.DraftThreads = None,
    patience_ms: edge_options.PatienceMs = None,
    max_ahead: edge_options.MaxAhead = None,
    max_window: edge_options.MaxWindow = None,
    sequence_threshold: edge_options.SequenceThreshold = None,
    token_threshold: edge_options.TokenThreshold = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="Keep the pipeline's events in DIR/traces.")
    ] = False,
    config_file: edge_options.ConfigFile = None,
) -> None:
    """Run every rival over an emulated link with real engines; results go into a folder.

    Thresholds and bounds are those of our own policy; the others have theirs from the literature.
    """
    import msgspec
    from rich.console import Console

    from benchmarks.datasets import available, find_specbench
    from benchmarks.pairs.catalog import Catalog
    from benchmarks.pairs.listing import pairs_folder
    from benchmarks.scenarios.loading import load_scenario
    from benchmarks.testbed.results import read_results
    from benchmarks.harness.rivals import parse_rivals
    from benchmarks.testbed.runner import Order, run_order
    from benchmarks.testbed.stage import Link
    from benchmarks.reports.tables import tables
    from edge_agent.settings import EdgeSettings
    from openai_gateway.cli.console import live_status
    from openai_gateway.cli.errors import CliError

    if link not in list(Link):
        raise CliError(f"--link is one of {', '.join(Link)}.", exit_code=2)
    found = find_specbench(specbench)
    models = {name: value for name, value in (("draft", draft), ("target", target)) if value is not None}
    order = Order(
        scenarios=[msgspec.structs.replace(load_scenario(name), **models) for name in scenario],
        rivals=parse_rivals(policies.split(",")),
        datasets=available(datasets.split(",") if datasets else None, found),
        specbench=found,
        num_tokens=tokens,
        num_prompts=prompts,
        num_seeds=seeds,
        out=out,
        link=Link(link),
        with_traces=traces,
        vllm_flags=(*(("--dtype", dtype) if dtype else ()), *ctx.args),
        edge_flags={name: value for name, value in ctx.params.items() if name in EdgeSettings.model_fields},
        command=f"pipesd bench {' '.join(sys.argv[sys.argv.index('run') :])}" if "run" in sys.argv else "",
    )
    with live_status() as show:
        run_order(order, Catalog(pairs_folder(), show), show)
    console = Console(highlight=False)
    results = read_results(out)
    for table in tables(results, [s.name for s in order.scenarios]):
        console.print(table)
    _print_claims(console, results)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `pipesd bench run` wrote to.")],
) -> None:
    """Turn a folder of results into one HTML page and PNG plots."""
    from rich.console import Console

    from benchmarks.reports.page import write_report
    from benchmarks.testbed.results import read_results

    page = write_report(folder)
    _print_claims(Console(highlight=False), read_results(folder))
    print(page)


def _print_claims(console: Console, results: Results) -> None:
    from benchmarks.reports.claims import claims_table, verdicts
    from benchmarks.reports.metrics import rows

    found = verdicts(rows(results.records))
    if found:
        console.print(claims_table(found))
