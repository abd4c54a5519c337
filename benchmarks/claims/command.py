"""`pipesd bench claims`: documents against the raw data that they claim to come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.claims.claims import DATA, FILE, ROOT, Claims, check, read_claims, read_records
from benchmarks.claims.values import ClaimError
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError

__all__ = ["claims"]


def claims(
    compare: Annotated[
        bool, typer.Option("--check", help="Compare documents with data (the default).")
    ] = True,
    write: Annotated[
        bool, typer.Option("--write", help="Put the data's figures into the documents.")
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="First simulate again what was simulated (under ten minutes).")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Where the documents are.", show_default=False)
    ] = ROOT,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where the raw data are.", show_default=False)
    ] = DATA,
    file: Annotated[
        Path, typer.Option("--claims", metavar="FILE", help="The claims.", show_default=False)
    ] = FILE,
) -> None:
    """Recompute every figure of the documents from committed raw data.

    Exit code 1, and the name of each claim that differs, if a document says something else than the data.
    """
    try:
        known = read_claims(file)
        if renew:
            _renew(known, data)
        report = check(known, root, data)
    except (ClaimError, OSError, ValueError) as error:
        raise CliError(f"The claims cannot be checked: {error}.") from error
    for line in report.differing:
        typer.echo(line)
    if write and report.differing:
        for name, text in report.texts.items():
            (root / name).write_text(text, encoding="utf-8")
        report = check(known, root, data)
    num = report.num_sentences + report.num_tables
    typer.echo(
        f"{num} claims ({report.num_sentences} sentences, {report.num_tables} tables): "
        f"{len(report.differing)} differ from the data"
    )
    if report.differing:
        raise typer.Exit(1)


def _renew(known: Claims, folder: Path) -> None:
    from benchmarks.claims.simulated import num_cells, records_of, write_records

    simulated = {name: each for name, each in known.data.items() if each.run}
    total = sum(num_cells(run) for each in simulated.values() for run in each.run)
    done = 0
    with live_status() as show:

        def note() -> None:
            nonlocal done
            done += 1
            show(f"Cell {done} of {total}")

        for each in simulated.values():
            write_records(folder / each.file, [line for run in each.run for line in records_of(run, note)])
    read_records.cache_clear()
