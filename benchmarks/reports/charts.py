"""Plots of results as PNG files, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from benchmarks.reports.metrics import Row, rows
from benchmarks.testbed.results import Results

__all__ = ["bars", "draw_all", "scatter", "sweep", "sweep_points"]

_SWEEP: Final = "bandwidth-"
_DPI: Final = 110
_COLOURS: Final = MappingProxyType(
    {
        "cloud": "#555555",
        "local": "#b0b0b0",
        "vanilla": "#c44e52",
        "hsl": "#dd8452",
        "edgellm": "#937860",
        "pipesd": "#8172b3",
        "adaptive": "#2a7f62",
    }
)
_HATCHES: Final = MappingProxyType({"published": "//", "offload": "", "balanced": "..", "latency": "xx"})
_MARKERS: Final = MappingProxyType({"published": "x", "offload": "o", "balanced": "s", "latency": "^"})


def draw_all(results: Results, folder: Path) -> list[Path]:
    """All plots that the results allow, written to `folder`; their paths."""
    all_rows = rows(results.records)
    datasets = list(dict.fromkeys(row.dataset for row in all_rows))
    drawn = []
    for dataset in datasets:
        of_dataset = [row for row in all_rows if row.dataset == dataset]
        single = [row for row in of_dataset if not row.scenario.startswith(_SWEEP)]
        for name, rows_of, draw in (("tpt", single, bars), ("passes", single, scatter)):
            if rows_of:
                drawn.append(_draw(folder / f"{name}-{dataset}.png", rows_of, draw))
        points = sweep_points(results, of_dataset)
        if points:
            drawn.append(_draw(folder / f"bandwidth-{dataset}.png", points, sweep))
    return drawn


def sweep_points(results: Results, of_dataset: Sequence[Row]) -> dict[str, list[tuple[float, Row]]]:
    """By rival, (uplink in Mbit/s, row) in the order of rates; empty unless two rates were run."""
    points: dict[str, list[tuple[float, Row]]] = {}
    for row in of_dataset:
        mbit = results.descriptions[row.scenario].scenario.up.mbit
        if row.scenario.startswith(_SWEEP) and mbit is not None:
            points.setdefault(row.label, []).append((mbit, row))
    longest = max(map(len, points.values()), default=0)
    return {label: sorted(of, key=lambda p: p[0]) for label, of in points.items()} if longest > 1 else {}


def bars(figure: Any, of_dataset: Sequence[Row]) -> None:
    """TPT per scenario and rival, with the range over seeds; logarithmic, as rivals lie far apart."""
    scenarios = list(dict.fromkeys(row.scenario for row in of_dataset))
    labels = list(dict.fromkeys(row.label for row in of_dataset))
    figure.set_size_inches(max(7.0, 1.2 + 0.28 * len(scenarios) * (len(labels) + 1)), 4.6)
    axes = figure.add_subplot()
    width = 0.85 / len(labels)
    for number, label in enumerate(labels):
        chosen = [row for row in of_dataset if row.label == label]
        places = [scenarios.index(row.scenario) + (number + 0.5) * width - 0.425 for row in chosen]
        tpt = [row.figures["tpt_ms"] for row in chosen]
        ranges = [[f.median - f.least for f in tpt], [f.most - f.median for f in tpt]]
        axes.bar(
            places, [f.median for f in tpt], width, yerr=ranges, capsize=2, label=label, **_style(chosen[0])
        )
    axes.set_xticks(range(len(scenarios)), scenarios)
    _log_ms(axes)
    axes.set_ylabel("ms per token (median, range over seeds)")
    axes.set_title(f"TPT, {of_dataset[0].dataset}")
    _legend(figure)


def scatter(figure: Any, of_dataset: Sequence[Row]) -> None:
    """TPT against target passes per token, a panel a scenario: down and to the left is better."""
    scenarios = list(dict.fromkeys(row.scenario for row in of_dataset))
    columns = min(3, len(scenarios))
    lines = -(-len(scenarios) // columns)
    figure.set_size_inches(3.6 * columns + 1.6, 3.3 * lines)
    for number, scenario in enumerate(scenarios, start=1):
        axes = figure.add_subplot(lines, columns, number)
        for row in (row for row in of_dataset if row.scenario == scenario):
            axes.plot(
                row.figures["target_passes_per_token"].median,
                row.figures["tpt_ms"].median,
                color=_COLOURS.get(row.policy, "black"),
                marker=_MARKERS.get(_variant(row), "D"),
                linestyle="",
                label=row.label,
            )
        _log_ms(axes)
        axes.set_title(scenario, fontsize=10)
        axes.set_xlabel("target passes per token")
        axes.set_ylabel("TPT, ms")
        axes.grid(alpha=0.3, which="both")
    _legend(figure)


def sweep(figure: Any, points: Mapping[str, Sequence[tuple[float, Row]]]) -> None:
    """TPT against the uplink's rate, a line a rival."""
    figure.set_size_inches(7.5, 4.4)
    axes = figure.add_subplot()
    for label, of_rival in points.items():
        row = of_rival[0][1]
        axes.plot(
            [mbit for mbit, _ in of_rival],
            [row.figures["tpt_ms"].median for _, row in of_rival],
            color=_COLOURS.get(row.policy, "black"),
            marker=_MARKERS.get(_variant(row), "D"),
            linestyle="--" if row.wire == "published" else "-",
            label=label,
        )
    axes.set_xscale("log", base=2)
    rates = sorted({mbit for of_rival in points.values() for mbit, _ in of_rival})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    _log_ms(axes)
    axes.set_xlabel("uplink, Mbit/s")
    axes.set_ylabel("TPT, ms per token")
    axes.set_title("Bandwidth sweep")
    axes.grid(alpha=0.3, which="both")
    _legend(figure)


def _draw(path: Path, data: Any, draw: Callable[[Any, Any], None]) -> Path:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(layout="constrained")
    draw(figure, data)
    figure.savefig(path, dpi=_DPI)
    return path


def _log_ms(axes: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)


def _variant(row: Row) -> str:
    return row.label.partition(":")[2]


def _style(row: Row) -> dict[str, str]:
    colour = _COLOURS.get(row.policy, "black")
    return {"color": colour, "hatch": _HATCHES.get(_variant(row), ""), "edgecolor": "white"}


def _legend(figure: Any) -> None:
    """Of whatever any panel shows."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside right upper", fontsize=8, frameon=False)
