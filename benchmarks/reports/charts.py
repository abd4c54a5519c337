"""Plots of results as PNG files, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.reports.metrics import Row, rows
from benchmarks.reports.records import Results

__all__ = ["draw_all"]

_SWEEP: Final = "bandwidth-"


def draw_all(results: Results, folder: Path) -> list[Path]:
    """All plots that the results allow, written to `folder`; their paths."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    all_rows = rows(results.records)
    drawn = []
    for dataset in dict.fromkeys(row.dataset for row in all_rows):
        of_dataset = [row for row in all_rows if row.dataset == dataset]
        single = [row for row in of_dataset if not row.scenario.startswith(_SWEEP)]
        plots: list[tuple[str, Any, Callable[[Any, Any], None]]] = [
            ("tpt", single, _bars),
            ("bandwidth", _sweep_points(results, of_dataset), _sweep),
        ]
        for name, data, draw in plots:
            if not data:
                continue
            figure = Figure(figsize=(11.0, 4.6), layout="constrained")
            axes = figure.add_subplot()
            draw(axes, data)
            axes.set_yscale("log")  # rivals lie far apart
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.set_ylabel("ms per token (median over seeds)")
            axes.set_title(f"TPT, {dataset}")
            figure.legend(loc="outside right upper", fontsize=8, frameon=False)
            path = folder / f"{name}-{dataset}.png"
            figure.savefig(path, dpi=110)
            drawn.append(path)
    return drawn


def _bars(axes: Any, of_dataset: Sequence[Row]) -> None:
    """TPT per scenario and rival, with the range over seeds."""
    scenarios = list(dict.fromkeys(row.scenario for row in of_dataset))
    labels = list(dict.fromkeys(row.label for row in of_dataset))
    width = 0.85 / len(labels)
    for number, label in enumerate(labels):
        chosen = [row for row in of_dataset if row.label == label]
        places = [scenarios.index(row.scenario) + (number + 0.5) * width - 0.425 for row in chosen]
        tpt = [row.figures["tpt_ms"] for row in chosen]
        ranges = [[f.median - f.least for f in tpt], [f.most - f.median for f in tpt]]
        axes.bar(places, [f.median for f in tpt], width, yerr=ranges, capsize=2, label=label)
    axes.set_xticks(range(len(scenarios)), scenarios)


def _sweep_points(results: Results, of_dataset: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """By rival, (uplink in Mbit/s, TPT in ms) in the order of rates; empty unless two rates were run."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in of_dataset:
        mbit = results.descriptions[row.scenario].scenario.up.mbit
        if row.scenario.startswith(_SWEEP) and mbit is not None:
            points.setdefault(row.label, []).append((mbit, row.figures["tpt_ms"].median))
    longest = max(map(len, points.values()), default=0)
    return {label: sorted(of) for label, of in points.items()} if longest > 1 else {}


def _sweep(axes: Any, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """TPT against the uplink's rate, a line a rival."""
    for label, of_rival in points.items():
        axes.plot(*zip(*of_rival, strict=True), marker="o", label=label)
    axes.set_xscale("log", base=2)
    rates = sorted({mbit for of_rival in points.values() for mbit, _ in of_rival})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_xlabel("uplink, Mbit/s")
