"""From records to figures: each seed by itself, then the median and the range over seeds. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks.harness.rivals import EVERYBODY, label_of
from benchmarks.reports.records import RunRecord, read_results

__all__ = ["METRICS", "Figure", "Row", "percentile", "rows", "write_summary"]


@dataclass(frozen=True, slots=True)
class Figure:
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
    figures: dict[str, Figure]

    @property
    def label(self) -> str:
        """Short and unique within scenario and dataset."""
        return label_of(self.policy, self.wire, self.mode)

    def median(self, metric: str, digits: int = 4) -> float | None:
        """Rounded; None for what was not measured."""
        figure = self.figures.get(metric)
        return None if figure is None else round(figure.median, digits)


Metric = Callable[[Sequence[RunRecord]], float | None]


def rows(records: Iterable[RunRecord]) -> list[Row]:
    """In the order in which scenarios and data sets appear, and always the same one of rivals."""
    groups: dict[tuple[str | None, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[record.key].append(record)
    order = {key: (*_first(groups, key), EVERYBODY.index(str(key[1])), *map(str, key[2:4])) for key in groups}
    return [_row(groups[key]) for key in sorted(groups, key=order.__getitem__)]


def _first(groups: Iterable[tuple[str | None, ...]], key: tuple[str | None, ...]) -> tuple[int, int]:
    """Where the key's scenario and data set first appear."""
    keys = list(groups)
    return (
        next(i for i, other in enumerate(keys) if other[0] == key[0]),
        next(i for i, other in enumerate(keys) if other[4] == key[4]),
    )


def write_summary(folder: Path) -> None:
    """`summary.json` in `folder`: the medians that comparisons need. Raises `CliError`."""
    entries = [
        {
            "scenario": row.scenario,
            "policy": row.policy,
            "wire": row.wire,
            "mode": row.mode,
            "dataset": row.dataset,
            **{name: row.median(name) for name in _SUMMARISED},
        }
        for row in rows(read_results(folder).records)
    ]
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(entries)) + b"\n")


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; `share` in (0, 1]."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def _row(group: Sequence[RunRecord]) -> Row:
    seeds: dict[int, list[RunRecord]] = defaultdict(list)
    for record in group:
        seeds[record.seed].append(record)
    figures = {}
    for name, metric in METRICS.items():
        values = [value for of_seed in seeds.values() if (value := metric(of_seed)) is not None]
        if values:
            figures[name] = Figure(median(values), min(values), max(values))
    compared = [record.same_text for record in group if record.same_text is not None]
    first = group[0]
    return Row(
        *(first.scenario, first.policy, first.wire, first.mode, first.dataset),
        *(len(seeds), len(group), sum(compared), len(compared), figures),
    )


def _tokens(runs: Sequence[RunRecord]) -> int:
    return sum(run.num_tokens for run in runs)


def _gap(share: float) -> Metric:
    def metric(runs: Sequence[RunRecord]) -> float | None:
        gaps = [gap for run in runs for gap in run.gaps_ms]
        return percentile(gaps, share) if gaps else None

    return metric


def _drafting(numerator: str, denominator: str | None, factor: float = 1.0) -> Metric:
    """Sum over sum, of fields of `Drafting`; the denominator None: tokens."""

    def metric(runs: Sequence[RunRecord]) -> float | None:
        drafts = [run.drafting for run in runs if run.drafting is not None]
        if not drafts:
            return None
        below = sum(getattr(d, denominator) for d in drafts) if denominator else _tokens(runs)
        return factor * sum(getattr(d, numerator) for d in drafts) / below if below else None

    return metric


def _rolled_back(runs: Sequence[RunRecord]) -> float | None:
    drafts = [run.drafting for run in runs if run.drafting is not None]
    discarded = sum(d.discarded for d in drafts)
    made = discarded + sum(d.accepted for d in drafts)
    return discarded / made if made else None


def _resource(name: str, of: Callable[[list[float], int], float]) -> Metric:
    """`of` all known values of a field of `Resources` and the number of tokens."""

    def metric(runs: Sequence[RunRecord]) -> float | None:
        values = [float(value) for run in runs if (value := getattr(run.resources, name)) is not None]
        return of(values, _tokens(runs)) if values else None

    return metric


def _per_token(name: str, factor: float = 1.0) -> Metric:
    return _resource(name, lambda values, num_tokens: factor * sum(values) / num_tokens)


def _most(name: str) -> Metric:
    return _resource(name, lambda values, _: max(values))


METRICS: Final[dict[str, Metric]] = {
    "tpt_ms": lambda runs: sum(run.total_s for run in runs) * 1e3 / _tokens(runs),
    "tokens_per_s": lambda runs: _tokens(runs) / sum(run.total_s for run in runs),
    "ttft_ms": lambda runs: median(run.ttft_s for run in runs) * 1e3,
    "itl_p50_ms": _gap(0.50),
    "itl_p95_ms": _gap(0.95),
    "itl_p99_ms": _gap(0.99),
    "acceptance_rate": _drafting("accepted", "verified"),
    "nav_per_100_tokens": _drafting("num_nav", None, 100.0),
    "target_passes_per_token": lambda runs: sum(run.target_passes for run in runs) / _tokens(runs),
    "rolled_back_share": _rolled_back,
    "bytes_per_draft": _drafting("frame_bytes", "sent"),
    "up_bytes_per_token": _per_token("up_bytes"),
    "down_bytes_per_token": _per_token("down_bytes"),
    "engine_busy_ms_per_token": _per_token("engine_busy_s", 1e3),
    "server_cpu_ms_per_token": _per_token("server_cpu_s", 1e3),
    "edge_cpu_ms_per_token": _per_token("edge_cpu_s", 1e3),
    "server_rss_mb": _most("server_rss_mb"),
    "edge_rss_mb": _most("edge_rss_mb"),
    "energy_j_per_100_tokens": _per_token("energy_j", 100.0),
}
"""Each from the runs of one seed; None where it does not apply or was not measured."""
_SUMMARISED: Final = ("tpt_ms", "target_passes_per_token", "acceptance_rate")
