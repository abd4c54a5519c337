"""`pipesd bench report`: one HTML page that needs nothing else, and the plots beside it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.reports.charts import draw_all
from benchmarks.reports.metrics import Row, write_summary
from benchmarks.reports.records import Results, read_results
from benchmarks.reports.tables import COLUMNS, cell, compared, scenario_rows

__all__ = ["write_report"]

_PAGE: Final = "report.html"


def write_report(folder: Path) -> Path:
    """Write page, plots and summary into `folder`; the page's path. Raises `CliError`."""
    results = read_results(folder)
    write_summary(folder)
    page = folder / _PAGE
    page.write_text(_render(results, draw_all(results, folder)), encoding="utf-8")
    return page


def _render(results: Results, plots: list[Path]) -> str:
    """The page, plots inside."""
    loader = PackageLoader("benchmarks.reports", ".")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(
        "page.html"
    )
    return template.render(
        plots=[(plot.name, base64.b64encode(plot.read_bytes()).decode()) for plot in plots],
        scenarios=[_scenario(results, name) for name in results.descriptions],
        headings=[heading for heading, _ in COLUMNS.values()],
    )


def _scenario(results: Results, name: str) -> dict[str, Any]:
    description = results.descriptions[name]
    of_scenario = scenario_rows(results, name)
    return {
        "name": name,
        "description": description,
        "tables": [(dataset, [_cells(row) for row in found]) for dataset, found in of_scenario.items()],
    }


def _cells(row: Row) -> list[str]:
    return [row.label, *(cell(row, metric) for metric in COLUMNS), compared(row)]
