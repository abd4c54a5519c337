"""`pipesd bench chaos`: thousands of faults in virtual time, each answer judged."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from benchmarks.sim.chaos import Tally
    from benchmarks.sim.judge import Finding

__all__ = ["chaos"]

_MOST_SHOWN: Final = 40
_PLANTED_SEEDS: Final = 2000


def chaos(
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="A:B", help="Seeds from A to B - 1, a plan each.")
    ] = "0:300",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the counts to FILE.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes.")] = os.cpu_count() or 1,
    log: Annotated[
        int | None,
        typer.Option("--log", metavar="SEED", help="Show plan and events of one seed.", show_default=False),
    ] = None,
    shrink: Annotated[
        int | None,
        typer.Option(
            "--shrink", metavar="SEED", help="Make a failing plan small, into the corpus.", show_default=False
        ),
    ] = None,
    corpus: Annotated[bool, typer.Option("--corpus", help="Run the corpus in place of seeds.")] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="Renew the figures of the fault-free plans; says what changed.")
    ] = False,
    planted: Annotated[
        bool,
        typer.Option("--planted", help="Plant bugs in the product, one after the other: are they found?"),
    ] = False,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Corpus and figures lie here.")
    ] = Path("tests/simulation"),
) -> None:
    """Run the product's real code in virtual time under seeded faults, and judge what comes of it.

    Exit code 1 if anything is found. docs/simulation.md says how to read a finding.
    """
    out = Console(highlight=False)
    _quiet()
    if log is not None:
        failed = _show(log, out)
    elif shrink is not None:
        failed = _shrink(shrink, folder / "corpus", out)
    elif corpus:
        failed = _corpus(folder / "corpus", out)
    elif figures:
        failed = _figures(folder / "golden.json", out)
    elif planted:
        failed = _planted(folder, jobs, out)
    else:
        failed = _seeds(_range(seeds), jobs, json_file, out)
    if failed:
        raise typer.Exit(1)


def _quiet() -> None:
    """The product's logs of thousands of faults help nobody."""
    import logging

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    logging.disable(logging.CRITICAL)


def _range(text: str) -> range:
    first, colon, last = text.partition(":")
    try:
        seeds = range(int(first), int(last) if colon else int(first) + 1)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not A:B", param_hint="--seeds") from None
    if not seeds:
        raise typer.BadParameter(f"'{text}' holds no seed: B must be above A", param_hint="--seeds")
    return seeds


def _seeds(seeds: Sequence[int], jobs: int, json_file: Path | None, out: Console) -> bool:
    from benchmarks.sim.chaos import Tally, examine_seeds
    from openai_gateway.cli.console import live_status

    tally, started_s = Tally(), time.monotonic()
    try:
        with live_status() as show:
            for examined in examine_seeds(seeds, jobs):
                tally.add(examined)
                for finding in examined.findings:
                    if len(tally.findings) <= _MOST_SHOWN:
                        out.print(f"seed {examined.seed}: {finding}", markup=False, soft_wrap=True)
                rate = tally.schedules / (time.monotonic() - started_s)
                show(
                    f"{tally.schedules:,} of {len(seeds):,} schedules, {rate:.1f} a second, "
                    f"{len(tally.findings)} findings"
                )
    except KeyboardInterrupt:
        out.print(f"stopped after {tally.schedules:,} of {len(seeds):,} schedules")
    counts = tally.as_json(time.monotonic() - started_s)
    _print_counts(counts, tally, out)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.encode(counts) + b"\n")
    return bool(tally.findings)


def _print_counts(counts: dict[str, float], tally: Tally, out: Console) -> None:
    for name, value in counts.items():
        out.print(f"{name:<10}{value:>12,}")
    if counts["seconds"]:
        out.print(f"{counts['schedules'] / counts['seconds']:.1f} schedules a second")
    if len(tally.findings) > _MOST_SHOWN:
        failing = sorted({seed for seed, _ in tally.findings})
        out.print(f"failing seeds: {' '.join(map(str, failing))}", soft_wrap=True)


def _show(seed: int, out: Console) -> bool:
    from benchmarks.sim.chaos import examine
    from benchmarks.sim.generate import plan_of

    plan = plan_of(seed)
    outcome, findings = examine(plan, keep_events=True)
    out.print(msgspec.json.format(msgspec.json.encode(plan), indent=1).decode(), markup=False, soft_wrap=True)
    for event in outcome.events:
        out.print(str(event), markup=False, soft_wrap=True)
    for number, chat in enumerate(outcome.chats):
        took = "not ended" if chat.took_s is None else f"{chat.took_s:.3f} s"
        out.print(
            f"chat {number}: {len(chat.tokens)} tokens, {chat.target_passes} passes, {took}, {chat.end}",
            markup=False,
            soft_wrap=True,
        )
    _print_findings(findings, out)
    out.print(f"log hash {outcome.log_hash}, {outcome.num_events} events")
    return bool(findings)


def _print_findings(findings: Sequence[Finding], out: Console) -> None:
    for finding in findings:
        out.print(str(finding), style="red", markup=False, soft_wrap=True)


def _shrink(seed: int, folder: Path, out: Console) -> bool:
    from benchmarks.sim.chaos import examine, settle_memory
    from benchmarks.sim.corpus import Entry, write_entry
    from benchmarks.sim.generate import plan_of
    from benchmarks.sim.plan import Plan
    from benchmarks.sim.shrink import shrink
    from openai_gateway.cli.console import live_status

    plan = plan_of(seed)
    findings = examine(plan).findings
    if not findings:
        out.print(f"seed {seed} does not fail")
        return False
    kind = findings[0].kind
    out.print(str(findings[0]), markup=False, soft_wrap=True)
    num_runs = 0
    with live_status() as status:

        def fails(smaller: Plan) -> bool:
            nonlocal num_runs
            num_runs += 1
            if num_runs % 20 == 0:
                settle_memory()
            status(f"{num_runs} plans tried, {len(smaller.faults)} faults, {len(smaller.chats)} chats")
            return any(finding.kind is kind for finding in examine(smaller).findings)

        small = shrink(plan, fails)
    found = next(str(f) for f in examine(small).findings if f.kind is kind)
    file = write_entry(folder, f"seed-{seed}", Entry(found, small))
    out.print(f"{file}: {found}", markup=False, soft_wrap=True)
    out.print("Mend the product, write into 'found' what was wrong, and give the file a name that says it.")
    return True


def _corpus(folder: Path, out: Console) -> bool:
    from benchmarks.sim.chaos import examine
    from benchmarks.sim.corpus import read_corpus

    failed = False
    for name, entry in read_corpus(folder).items():
        findings = examine(entry.plan).findings
        failed |= bool(findings)
        out.print(f"{'FAILS' if findings else 'ok':5} {name}: {entry.found}", markup=False, soft_wrap=True)
        _print_findings(findings, out)
    return failed


def _figures(file: Path, out: Console) -> bool:
    from benchmarks.sim.figures import changes, figures_of, golden_plans, read_golden, write_golden
    from benchmarks.sim.world import run

    kept = read_golden(file) if file.exists() else {}
    now = {}
    for name, plan in golden_plans().items():
        outcome = run(plan)
        if outcome.problems or any(chat.end.finish_reason is None for chat in outcome.chats):
            out.print(f"{name}: {outcome.problems or 'not whole'}", markup=False, soft_wrap=True)
            return True
        now[name] = figures_of(outcome)
    for name, figures in now.items():
        if name not in kept:
            out.print(f"new: {name}", markup=False)
        elif changed := changes(kept[name], figures):
            out.print(f"{name}: {', '.join(changed)}", markup=False, soft_wrap=True)
    for name in kept.keys() - now.keys():
        out.print(f"gone: {name}", markup=False)
    write_golden(file, now)
    out.print(f"{file}: {len(now)} plans")
    return False


def _planted(folder: Path, jobs: int, out: Console) -> bool:
    from benchmarks.sim.chaos import hunt_all
    from benchmarks.sim.figures import read_golden
    from openai_gateway.cli.console import live_status

    table = Table("planted bug", "golden figures changed", "found at seed", "as")
    golden = read_golden(folder / "golden.json")
    missed = []
    with live_status() as show:
        for number, hunt in enumerate(hunt_all(golden, _PLANTED_SEEDS, jobs), start=1):
            show(f"{number} bugs tried")
            where = "none" if hunt.seed is None else str(hunt.seed)
            table.add_row(hunt.name, str(hunt.num_changed), where, hunt.finding)
            if not hunt.is_found:
                missed.append(hunt.name)
    out.print(table)
    if missed:
        out.print(f"not found: {', '.join(missed)}")
    return bool(missed)
