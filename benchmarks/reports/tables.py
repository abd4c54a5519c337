"""Rows as tables: cells for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.reports.metrics import Row, rows
from benchmarks.reports.records import Results

__all__ = ["COLUMNS", "cell", "compared", "scenario_rows", "table", "tables"]

NOT_MEASURED: Final = "-"

COLUMNS: Final = MappingProxyType(
    {
        "tpt_ms": ("TPT, ms", "{:.1f}"),
        "tokens_per_s": ("tokens/s", "{:.1f}"),
        "ttft_ms": ("TTFT, ms", "{:.0f}"),
        "itl_p50_ms": ("ITL p50, ms", "{:.0f}"),
        "itl_p95_ms": ("p95", "{:.0f}"),
        "itl_p99_ms": ("p99", "{:.0f}"),
        "acceptance_rate": ("accept.", "{:.2f}"),
        "nav_per_100_tokens": ("NAV/100", "{:.1f}"),
        "target_passes_per_token": ("passes/tok", "{:.3f}"),
        "rolled_back_share": ("rolled back", "{:.0%}"),
        "bytes_per_draft": ("B/draft", "{:,.1f}"),
        "up_bytes_per_token": ("B up/tok", "{:,.0f}"),
        "down_bytes_per_token": ("B down/tok", "{:,.0f}"),
        "engine_busy_ms_per_token": ("engine ms/tok", "{:.1f}"),
        "server_cpu_ms_per_token": ("server CPU ms/tok", "{:.1f}"),
        "edge_cpu_ms_per_token": ("edge CPU ms/tok", "{:.1f}"),
        "server_rss_mb": ("server RSS, MB", "{:.0f}"),
        "edge_rss_mb": ("edge RSS, MB", "{:.0f}"),
        "energy_j_per_100_tokens": ("J/100 tok", "{:.1f}"),
    }
)
"""Heading and layout of each metric."""
_IN_TERMINAL: Final = MappingProxyType(
    {
        "ttft_ms": "TTFT\nms",
        "acceptance_rate": "acc.",
        "target_passes_per_token": "passes\n/token",
        "rolled_back_share": "rolled\nback",
        "bytes_per_draft": "B up\n/draft",
        "up_bytes_per_token": "B up\n/token",
    }
)
"""Short headings: all columns fit into 80 characters."""


def cell(row: Row, metric: str, *, with_range: bool = True) -> str:
    """The median, with (least to most) if there is more than one seed."""
    figure, layout = row.figures.get(metric), COLUMNS[metric][1]
    if figure is None:
        return NOT_MEASURED
    middle = layout.format(figure.median)
    if row.num_seeds == 1 or not with_range:
        return middle
    return f"{middle} ({layout.format(figure.least)} to {layout.format(figure.most)})"


def compared(row: Row) -> str:
    """How many texts were the target's own, of those compared."""
    return f"{row.num_same_text}/{row.num_compared}" if row.num_compared else NOT_MEASURED


def scenario_rows(results: Results, scenario: str) -> dict[str, list[Row]]:
    """Of one scenario, by data set."""
    found: dict[str, list[Row]] = {}
    for row in rows(record for record in results.records if record.scenario == scenario):
        found.setdefault(row.dataset, []).append(row)
    return found


def tables(results: Results, scenarios: Sequence[str]) -> list[Table]:
    """One for each scenario and data set: the metrics that matter most."""
    return [
        table(f"{results.descriptions[scenario].scenario.title}; {dataset}", of_dataset)
        for scenario in scenarios
        for dataset, of_dataset in scenario_rows(results, scenario).items()
    ]


def table(title: str, of_dataset: Sequence[Row]) -> Table:
    """A line a rival; metrics that no row has are left out."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown = [name for name in _IN_TERMINAL if any(name in row.figures for row in of_dataset)]
    if "up_bytes_per_token" in shown and "bytes_per_draft" in shown:
        shown.remove("bytes_per_draft")  # the link's own count says more
    headings = ("TPT\nms", "least-\nmost", *(_IN_TERMINAL[name] for name in shown), "same\ntext")
    made.add_column("", no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    for row in of_dataset:
        cells = [cell(row, metric, with_range=False) for metric in shown]
        made.add_row(row.label, cell(row, "tpt_ms", with_range=False), _range(row), *cells, compared(row))
    return made


def _range(row: Row) -> str:
    figure = row.figures.get("tpt_ms")
    return NOT_MEASURED if figure is None else f"{figure.least:.0f}-{figure.most:.0f}"
