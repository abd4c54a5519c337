"""`pipesd plan`: how many GPUs so many users need, by a model that is fitted to the simulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.planner.fitting import write_factors
from benchmarks.planner.model import Estimate, Gpu, Kind, Workload, estimate, users_within
from benchmarks.reports.records import write_json
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError

__all__ = ["plan"]

GPUS: Final = {
    # Llama 3.1 8B in bfloat16 on one H100 of 80 GB, as NVIDIA's SpecDecode-Bench fitted it.
    "h100-8b": Gpu(
        name="h100-8b",
        base_s=7.093e-3,
        token_s=2.101e-5,
        context_s=3.926e-8,
        kv_tokens=427_000,
        seats=512,
        api_servers=4,
    ),
    # The embedded target on two cores: verified rows are dear (85 ms for one, 121 ms for eight).
    "cpu-rows": Gpu(
        name="cpu-rows", base_s=0.0799, token_s=0.0051, kv_tokens=65_536, seats=16, front_s=0.0008
    ),
}
_FACTORS: Final = Path(__file__).with_name("fit.json")
_COUNTS: Final = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
_SIMULATED: Final = 300
"""Edges up to which the simulator has run."""


def plan(
    gpu_table: Annotated[
        str,
        typer.Option("--gpu-table", metavar="FILE", help="A server's costs as JSON, or h100-8b, cpu-rows."),
    ] = "h100-8b",
    users: Annotated[
        int, typer.Option("--users", min=1, help="Users, those who read and think included.")
    ] = 1000,
    tpt_ms: Annotated[
        float, typer.Option("--tpt-ms", min=0.1, help="A token may take this long, 95 % of the time.")
    ] = 30.0,
    rtt_ms: Annotated[float, typer.Option("--rtt-ms", min=0.0, help="Round trip of the edges.")] = 30.0,
    draft_ms: Annotated[float, typer.Option("--draft-ms", min=0.1, help="A draft token takes it.")] = 4.0,
    acceptance: Annotated[
        float, typer.Option("--acceptance", min=0.01, max=0.98, help="A draft is right so often.")
    ] = 0.75,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Of a question.")] = 1000,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", min=1, help="Of an answer.")] = 300,
    think_s: Annotated[
        float, typer.Option("--think-s", min=0.0, help="From an answer to the next question.")
    ] = 20.0,
    prefix_hits: Annotated[
        float, typer.Option("--prefix-hits", min=0.0, max=1.0, help="Of prompt tokens, in the prefix cache.")
    ] = 0.5,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw it.", show_default=False)
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            "--fit",
            metavar="FILE",
            help="Fit the model to rows of `pipesd bench capacity --json` first, and keep that.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say how many GPUs serve so many users within a time a token: plain, by n-grams, and with edges.

    A reduced queueing model, not a measurement: what it assumes is printed.
    """
    gpu = gpu_of(gpu_table)
    if fit is not None:
        write_factors(fit, _FACTORS, GPUS)
    work = Workload(
        prompt_tokens,
        answer_tokens,
        think_s,
        prefix_hits,
        rtt_ms / 1e3,
        draft_ms / 1e3,
        acceptance,
    )
    factors = read_factors()
    out = Console(highlight=False, soft_wrap=True)
    out.print(*assumptions(gpu, work, factors), sep="\n")
    with live_status() as show:
        found = answers(gpu, work, users, tpt_ms / 1e3, factors, show)
    out.print(table_of(found, users, tpt_ms))
    with live_status() as show:
        if json_file is not None:
            show("Solving the curves of the file")
            curves = {
                str(kind): [estimate(gpu, work, kind, number, factors) for number in _COUNTS] for kind in Kind
            }
            write_json(json_file, {"gpu": gpu, "workload": work, "answers": found, "curves": curves})
        if picture is not None:
            show("Solving the curves of the picture")
            draw(gpu, work, tpt_ms / 1e3, factors, picture)


def gpu_of(name: str) -> Gpu:
    """A known table, or that in a file. Raises `CliError`."""
    if name in GPUS:
        return GPUS[name]
    try:
        return msgspec.json.decode(Path(name).read_bytes(), type=Gpu)
    except OSError as error:
        raise CliError(f"{name}: {error.strerror}. Known tables: {', '.join(GPUS)}.", exit_code=2) from None
    except msgspec.MsgspecError as error:
        raise CliError(f"{name} is no table of costs: {error}.", exit_code=2) from None


def read_factors() -> dict[str, float]:
    """By kind: simulated time a token over the model's own."""
    return msgspec.json.decode(_FACTORS.read_bytes(), type=dict[str, float])


def answers(
    gpu: Gpu,
    work: Workload,
    users: int,
    tpt_s: float,
    factors: dict[str, float],
    show: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """For each kind the users that one GPU takes, what ends it, and the GPUs for all; 0: none will do."""
    found = []
    for kind in Kind:
        show(f"Solving the model: {kind}")
        most, limit = users_within(gpu, work, kind, tpt_s, factors)
        at = estimate(gpu, work, kind, most, factors) if most else None
        found.append(
            {
                "kind": str(kind),
                "users_per_gpu": most,
                "limit": limit,
                "gpus": math.ceil(users / most) if most else 0,
                "tokens_per_s_per_gpu": at.tokens_per_s if at else 0.0,
                "under_way": at.under_way if at else 0.0,
            }
        )
    return found


def assumptions(gpu: Gpu, work: Workload, factors: dict[str, float]) -> list[str]:
    """All that the answer rests on, in lines."""
    told = ", ".join(f"{kind} x{factor:.2f}" for kind, factor in factors.items())
    return [
        f"{gpu.name}: a step takes {gpu.base_s * 1e3:.2f} ms + {gpu.token_s * 1e6:.1f} us a row + "
        f"{gpu.context_s * 1e9:.1f} ns a KV entry; {gpu.kv_tokens:,} tokens of KV cache, {gpu.seats} seats, "
        f"{gpu.front_s * 1e3:.2f} ms of front end a commit on {gpu.api_servers} API server(s)",
        f"users: questions of {work.prompt_tokens} tokens ({work.prefix_hits:.0%} in the prefix cache), "
        f"answers of {work.answer_tokens}, {work.think_s:g} s between; RTT {work.rtt_s * 1e3:g} ms, a draft "
        f"in {work.draft_s * 1e3:g} ms, right with {work.acceptance:g}; n-grams: {work.ngram[0]:g} tokens "
        f"and {work.ngram[1]:g} drafts a pass",
        "model: closed queueing network in its steady state, 95 % by the spread of answers under way, times "
        f"medians over texts, users spread evenly; fitted to the simulator ({told}), run up to {_SIMULATED} "
        "edges",
    ]


def table_of(found: Sequence[dict[str, Any]], users: int, tpt_ms: float) -> Table:
    """A line for each kind."""
    title = f"{users:,} users, {tpt_ms:g} ms a token for 95 % of the time"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for name in ("", "users a GPU", "over plain", "ends by", "GPUs", "tokens/s a GPU"):
        table.add_column(name, justify="left" if name in ("", "ends by") else "right", no_wrap=True)
    plain = found[0]["users_per_gpu"]
    for row in found:
        most = row["users_per_gpu"]
        table.add_row(
            row["kind"],
            f"{most:,}",
            f"{most / plain:.2f}" if plain else "-",
            row["limit"],
            f"{row['gpus']:,}" if row["gpus"] else "none does it",
            f"{row['tokens_per_s_per_gpu']:,.0f}",
        )
    return table


def draw(gpu: Gpu, work: Workload, tpt_s: float, factors: dict[str, float], path: Path) -> None:
    """p95 time a token over the users of one GPU, and the GPUs that up to 10,000 users need."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    times, needed = figure.subplots(1, 2)
    counts = sorted({round(10 ** (place / 12)) for place in range(49)})
    for kind in Kind:
        found: list[Estimate] = []
        for number in counts:
            found.append(estimate(gpu, work, kind, number, factors))
            if found[-1].limit:
                break
        xs = [each.users for each in found]
        times.plot(xs, [each.tpt_s * 1e3 for each in found], label=str(kind))
        most, _ = users_within(gpu, work, kind, tpt_s, factors)
        if most:
            needed.plot(counts, [math.ceil(number / most) for number in counts], label=str(kind))
    times.axhline(tpt_s * 1e3, color="black", linewidth=0.6)
    times.axvline(_SIMULATED, color="grey", linewidth=0.6, linestyle="dotted")
    times.set_title(f"{gpu.name}: p95 TPT in ms over users of one GPU, to its limit", fontsize=9)
    needed.set_title(f"GPUs for {tpt_s * 1e3:g} ms at RTT {work.rtt_s * 1e3:g} ms", fontsize=9)
    for axes in (times, needed):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("users")
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
