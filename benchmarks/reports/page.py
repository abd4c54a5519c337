"""`pipesd bench report`: one HTML page that needs nothing else, and the plots beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.reports.metrics import Row, rows, tables, write_summary
from benchmarks.reports.records import Description, Results, read_results

__all__ = ["write_report"]

_WIDTH: Final = 400
"""Characters: no table breaks its lines."""
_SWEEP: Final = "bandwidth-"


def write_report(folder: Path) -> Path:
    """Write page, plots and summary into `folder`; the page's path. Raises `CliError`."""
    results = read_results(folder)
    write_summary(folder)
    console = Console(record=True, file=StringIO(), width=_WIDTH, highlight=False, markup=False)
    for name, description in results.descriptions.items():
        console.print(*_facts(description), sep="\n")
        console.print(*tables(results, name, full=True), sep="\n")
    plots = "".join(
        f'<img alt="{plot.stem}" src="data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()}">'
        for plot in _draw_all(results, folder)
    )
    page = folder / "report.html"
    html = console.export_html(inline_styles=True).replace("<body>", f"<body>{plots}", 1)
    page.write_text(html, encoding="utf-8")
    return page


def _facts(d: Description) -> list[str]:
    pace = f"; at least {d.scenario.gamma_ms:g} ms a token" if d.scenario.gamma_ms else ""
    probed, settings, machine = d.probed, _words(d.settings), _words(d.machine)
    return [
        f"{d.scenario.title}. Medians over seeds (least to most).",
        f"Draft: {d.draft}{pace}",
        f"Target: {d.target}",
        f"Link: {d.link}; probe before the run: RTT {probed.rtt_ms:.1f} ms, up {probed.up_mbit:.1f} Mbit/s, "
        f"down {probed.down_mbit:.1f} Mbit/s",
        f"{d.num_tokens} tokens, {d.num_prompts} prompt(s) of each data set a seed, {d.num_seeds} seed(s)",
        f"Our settings: {settings}. Machine: {machine}",
        d.command,
    ]


def _words(named: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in named.items())


def _draw_all(results: Results, folder: Path) -> list[Path]:
    """All plots that the results allow, as PNG files in `folder`; their paths."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    all_rows = rows(results.records)
    drawn = []
    for dataset in dict.fromkeys(row.dataset for row in all_rows):
        sweep = [r for r in all_rows if r.dataset == dataset and r.scenario.startswith(_SWEEP)]
        single = [r for r in all_rows if r.dataset == dataset and not r.scenario.startswith(_SWEEP)]
        if len({row.scenario for row in sweep}) < 2:
            sweep = []  # one rate makes no line
        for name, of_plot in (("tpt", single), ("bandwidth", sweep)):
            if not of_plot:
                continue
            figure = Figure(figsize=(11.0, 4.6), layout="constrained")
            axes = figure.add_subplot()
            _bars(axes, of_plot) if name == "tpt" else _lines(axes, of_plot, results)
            axes.set_yscale("log")  # rivals lie far apart
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.set_ylabel("ms per token (median over seeds)")
            axes.set_title(f"TPT, {dataset}")
            figure.legend(loc="outside right upper", fontsize=8, frameon=False)
            drawn.append(folder / f"{name}-{dataset}.png")
            figure.savefig(drawn[-1], dpi=110)
    return drawn


def _bars(axes: Any, of_plot: Sequence[Row]) -> None:
    """TPT per scenario and rival, with the range over seeds."""
    scenarios = list(dict.fromkeys(row.scenario for row in of_plot))
    labels = list(dict.fromkeys(row.label for row in of_plot))
    width = 0.85 / len(labels)
    for number, label in enumerate(labels):
        chosen = [row for row in of_plot if row.label == label]
        places = [scenarios.index(row.scenario) + (number + 0.5) * width - 0.425 for row in chosen]
        tpt = [row.figures["tpt_ms"] for row in chosen]
        ranges = [[f.median - f.least for f in tpt], [f.most - f.median for f in tpt]]
        axes.bar(places, [f.median for f in tpt], width, yerr=ranges, capsize=2, label=label)
    axes.set_xticks(range(len(scenarios)), scenarios)


def _lines(axes: Any, of_plot: Sequence[Row], results: Results) -> None:
    """TPT against the uplink's rate, a line a rival."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in of_plot:
        mbit = results.descriptions[row.scenario].scenario.up.mbit or 0.0
        points.setdefault(row.label, []).append((mbit, row.figures["tpt_ms"].median))
    for label, of_rival in points.items():
        axes.plot(*zip(*sorted(of_rival), strict=True), marker="o", label=label)
    axes.set_xscale("log", base=2)
    rates = sorted({mbit for of_rival in points.values() for mbit, _ in of_rival})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_xlabel("uplink, Mbit/s")
