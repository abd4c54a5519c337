"""`pipesd trace`: a recorded trace as numbers or as a Gantt chart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from openai_gateway.cli.errors import CliError

if TYPE_CHECKING:  # the command line loads in an instant
    from rich.table import Table

    from edge_agent.tracing.analysis.reading import TraceReader
    from edge_agent.tracing.analysis.timeline import Timeline
    from edge_agent.tracing.analysis.totals import Totals

__all__ = ["trace"]

MAX_SESSIONS: Final = 20
"""Number of sessions that are listed one by one."""

_COLUMNS: Final = (
    "tokens",
    "TPT\nms",
    "rounds",
    "accepted",
    "passes",
    "per\ntoken",
    "edge\nidle",
    "server\nidle",
)


def trace(
    file: Annotated[Path, typer.Argument(help="Recorded by --trace.", metavar="FILE", show_default=False)],
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a Gantt chart: a page that needs no network.", metavar="FILE"),
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", help="Only requests whose id starts so.", metavar="ID")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="The target's tokenizer.json: shows text, not ids.", metavar="FILE"),
    ] = None,
) -> None:
    """Show where the time of traced generations went: as numbers, or as a Gantt chart with --html."""
    from edge_agent.tracing.analysis.reading import TraceReader
    from openai_gateway.cli.console import stderr

    reader = TraceReader(file)
    timelines = _timelines(reader, file, request or "")
    if html is None:
        _print_summary(timelines)
    else:
        _draw(timelines, html, tokenizer)
        stderr.print(f"{html} is drawn: open it in a browser.", markup=False, soft_wrap=True)
    if reader.num_corrupt:
        stderr.print(f"Skipped {_count(reader.num_corrupt, 'line')} that cannot be read.")


def _timelines(reader: TraceReader, file: Path, request: str) -> Iterator[Timeline]:
    """The events one by one, since a trace can be large. Raises `CliError` if there is none."""
    from edge_agent.tracing.analysis.timeline import reconstruct

    found = False
    try:
        for events in reader.sessions():
            timeline = reconstruct(events)
            if timeline.session.request_id.startswith(request):
                found = True
                yield timeline
    except OSError as error:
        raise CliError(f"Cannot read {file}: {error.strerror or error}.") from error
    if not found:
        wanted = f" of a request {request}" if request else ""
        raise CliError(f"{file} holds no trace{wanted}: record one with --trace FILE.")


def _draw(timelines: Iterator[Timeline], html: Path, tokenizer: Path | None) -> None:
    from edge_agent.tracing.analysis.gantt import render_html

    page = render_html(timelines, token_text=None if tokenizer is None else _token_text(tokenizer))
    try:
        html.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CliError(f"Cannot write {html}: {error.strerror or error}.") from error


def _token_text(file: Path) -> Callable[[int], str]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CliError(f"Cannot read {file}: {error.strerror or error}.") from error
    except Exception as error:  # the library raises nothing narrower
        raise CliError(f"{file} is not a tokenizer.json.") from error
    return lambda token_id: str(tokenizer.decode([token_id], skip_special_tokens=False)) or f"#{token_id}"


# -- figures ------------------------------------------------------------------------------


def _print_summary(timelines: Iterator[Timeline]) -> None:
    from rich.console import Console

    from edge_agent.tracing.analysis.totals import combine, totals

    listed: list[tuple[str, Totals]] = []
    total: Totals | None = None
    num_sessions = 0
    for timeline in timelines:
        figures = totals(timeline)
        num_sessions += 1
        total = figures if total is None else combine([total, figures])
        if num_sessions <= MAX_SESSIONS:
            listed.append((timeline.session.request_id, figures))
    if total is None:
        return
    console = Console(highlight=False)
    console.print(_sessions_table(listed, total))
    if num_sessions > len(listed):
        console.print(f"The first {len(listed)} of {_count(num_sessions, 'session')}; the total counts all.")
    console.print(_spent_table(total))


def _sessions_table(listed: Sequence[tuple[str, Totals]], total: Totals) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("request", min_width=8, max_width=40, overflow="ellipsis")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for request_id, figures in listed:
        table.add_row(escape(request_id), *_row(figures))
    if total.num_sessions > 1:
        table.add_row("total", *_row(total), style="bold")
    return table


def _row(figures: Totals) -> list[str]:
    return [
        f"{figures.num_tokens:,}",
        _number(figures.tpt_ms, 1),
        f"{figures.num_rounds:,}",
        _share(figures.acceptance_rate),
        f"{figures.num_passes:,}",
        _number(figures.passes_per_token, 2),
        _share(figures.edge_idle),
        _share(figures.server_idle),
    ]


def _spent_table(total: Totals) -> Table:
    from rich.table import Table

    from edge_agent.tracing.analysis.totals import ACTIVITY_NAMES, Activity

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
    table.title = "\nWhere the time went"
    table.add_column("")
    for name in ("ms", "share", "not overlapped"):
        table.add_column(name, justify="right")
    for activity, spent in total.spent.items():
        share = spent.busy_s / total.wall_s if total.wall_s else None
        alone = "" if activity is Activity.WAITING else f"{spent.alone_s * 1e3:,.0f}"
        table.add_row(ACTIVITY_NAMES[activity], f"{spent.busy_s * 1e3:,.0f}", _share(share), alone)
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
