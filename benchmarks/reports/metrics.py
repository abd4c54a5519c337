"""From records to figures and tables: each seed by itself, then the median and the range over seeds. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.harness.rivals import EVERYBODY, label_of
from benchmarks.reports.records import Results, RunRecord, read_results

__all__ = ["Row", "rows", "table", "tables", "write_summary"]

_SUMMARISED: Final = ("tpt_ms", "target_passes_per_token", "acceptance_rate")


class Figure(NamedTuple):
    """Over seeds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """One rival in one scenario on one dataset. Metrics that were not measured are missing."""

    scenario: str
    policy: str
    wire: str | None
    mode: str | None
    dataset: str
    num_seeds: int
    num_runs: int
    num_same_text: int
    num_compared: int
    figures: Mapping[str, Figure]

    @property
    def label(self) -> str:
        """Short and unique within scenario and dataset."""
        return label_of(self.policy, self.wire, self.mode)

    def median(self, metric: str, digits: int = 4) -> float | None:
        """Rounded; None for what was not measured."""
        figure = self.figures.get(metric)
        return None if figure is None else round(figure.median, digits)


def rows(records: Iterable[RunRecord]) -> list[Row]:
    """In the order in which scenarios and data sets appear, and always the same one of rivals."""
    groups: dict[tuple[str, str, str | None, str | None, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[record.key].append(record)
    scenarios, datasets = (list(dict.fromkeys(key[i] for key in groups)) for i in (0, 4))
    return [
        _row(groups[key])
        for key in sorted(
            groups,
            key=lambda key: (
                scenarios.index(key[0]),
                datasets.index(key[4]),
                EVERYBODY.index(key[1]),
                *map(str, key[2:4]),
            ),
        )
    ]


def _row(group: Sequence[RunRecord]) -> Row:
    seeds: dict[int, list[RunRecord]] = defaultdict(list)
    for record in group:
        seeds[record.seed].append(record)
    figures = {}
    for name, (metric, _, _) in _METRICS.items():
        values = [value for of_seed in seeds.values() if (value := metric(of_seed)) is not None]
        if values:
            figures[name] = Figure(median(values), min(values), max(values))
    compared = [record.same_text for record in group if record.same_text is not None]
    scenario, policy, wire, mode, dataset = group[0].key
    counts = len(seeds), len(group), sum(compared), len(compared)
    return Row(scenario, policy, wire, mode, dataset, *counts, figures)


Metric = Callable[[Sequence[RunRecord]], float | None]


def _ratio(numerator: str, denominator: str = "num_tokens", factor: float = 1.0) -> Metric:
    """Sum over sum, of the runs that know the numerator."""

    def metric(runs: Sequence[RunRecord]) -> float | None:
        known = [run for run in runs if getattr(run, numerator) is not None]
        below = sum(getattr(run, denominator) for run in known)
        return factor * sum(getattr(run, numerator) for run in known) / below if below else None

    return metric


def _gap(percent: float) -> Metric:
    """Nearest rank, so that a percentile is a value that occurred."""

    def metric(runs: Sequence[RunRecord]) -> float | None:
        gaps = [gap for run in runs for gap in run.gaps_ms]
        return float(np.percentile(gaps, percent, method="inverted_cdf")) if gaps else None

    return metric


def _most(name: str) -> Metric:
    return lambda runs: max((v for run in runs if (v := getattr(run, name)) is not None), default=None)


_METRICS: Final[dict[str, tuple[Metric, str, str]]] = {
    "tpt_ms": (_ratio("total_s", factor=1e3), "TPT\nms", "{:.1f}"),
    "ttft_ms": (lambda runs: median(run.ttft_s for run in runs) * 1e3, "TTFT\nms", "{:.0f}"),
    "itl_p50_ms": (_gap(50), "ITL p50\nms", "{:.0f}"),
    "itl_p99_ms": (_gap(99), "ITL p99\nms", "{:.0f}"),
    "acceptance_rate": (_ratio("drafts_accepted", "drafts_verified"), "acc.", "{:.2f}"),
    "target_passes_per_token": (_ratio("target_passes"), "passes\n/token", "{:.3f}"),
    "rolled_back_share": (_ratio("drafts_discarded", "drafts_made"), "rolled\nback", "{:.0%}"),
    "bytes_per_draft": (_ratio("draft_bytes", "drafts_sent"), "B up\n/draft", "{:,.1f}"),
    "up_bytes_per_token": (_ratio("up_bytes"), "B up\n/token", "{:,.0f}"),
    "down_bytes_per_token": (_ratio("down_bytes"), "B down\n/token", "{:,.0f}"),
    "engine_busy_ms_per_token": (_ratio("engine_busy_s", factor=1e3), "engine\nms/token", "{:.1f}"),
    "server_cpu_ms_per_token": (_ratio("server_cpu_s", factor=1e3), "server CPU\nms/token", "{:.1f}"),
    "edge_cpu_ms_per_token": (_ratio("edge_cpu_s", factor=1e3), "edge CPU\nms/token", "{:.1f}"),
    "server_rss_mb": (_most("server_rss_mb"), "server\nRSS, MB", "{:.0f}"),
    "edge_rss_mb": (_most("edge_rss_mb"), "edge\nRSS, MB", "{:.0f}"),
}
"""Each from the runs of one seed, None where it does not apply or was not measured; heading and layout."""
_IN_TERMINAL: Final = (
    *("ttft_ms", "acceptance_rate", "target_passes_per_token", "rolled_back_share"),
    *("bytes_per_draft", "up_bytes_per_token"),
)
"""Beside the TPT: all columns fit into 80 characters."""


def tables(results: Results, scenario: str, *, full: bool = False) -> list[Table]:
    """One for each data set of the scenario: all metrics, or those that matter most."""
    of_datasets: dict[str, list[Row]] = {}
    for row in rows(record for record in results.records if record.scenario == scenario):
        of_datasets.setdefault(row.dataset, []).append(row)
    title = results.descriptions[scenario].scenario.title
    return [table(f"{title}; {dataset}", of, full=full) for dataset, of in of_datasets.items()]


def table(title: str, of_dataset: Sequence[Row], *, full: bool = False) -> Table:
    """A line a rival; metrics that no row has are left out. `full`: all metrics, ranges with each."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    names = [
        name for name in (_METRICS if full else _IN_TERMINAL) if any(name in r.figures for r in of_dataset)
    ]
    if not full and {"up_bytes_per_token", "bytes_per_draft"} <= set(names):
        names.remove("bytes_per_draft")  # the link's own count says more
    before = [] if full else ["TPT\nms", "least-\nmost"]
    made.add_column("", no_wrap=True)
    for heading in (*before, *(_METRICS[name][1] for name in names), "same\ntext"):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in of_dataset:
        tpt = row.figures["tpt_ms"]
        first = [] if full else [f"{tpt.median:.1f}", f"{tpt.least:.0f}-{tpt.most:.0f}"]
        cells = [_cell(row, name, with_range=full and row.num_seeds > 1) for name in names]
        compared = f"{row.num_same_text}/{row.num_compared}" if row.num_compared else "-"
        made.add_row(row.label, *first, *cells, compared)
    return made


def _cell(row: Row, name: str, *, with_range: bool) -> str:
    figure, layout = row.figures.get(name), _METRICS[name][2]
    if figure is None:
        return "-"
    middle = layout.format(figure.median)
    return (
        f"{middle} ({layout.format(figure.least)} to {layout.format(figure.most)})" if with_range else middle
    )


def write_summary(folder: Path) -> None:
    """`summary.json` in `folder`: the medians that comparisons need. Raises `CliError`."""
    entries = [
        {
            **{name: getattr(row, name) for name in ("scenario", "policy", "wire", "mode", "dataset")},
            **{name: row.median(name) for name in _SUMMARISED},
        }
        for row in rows(read_results(folder).records)
    ]
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(entries)) + b"\n")
