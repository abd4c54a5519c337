"""Figures as table rows and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.figures import Figures, Way
from openai_gateway.cli.errors import CliError

__all__ = ["figures_json", "machine", "rows", "table", "write_json"]

Row = tuple[str, ...]
NONE: Final = "-"

_HEADINGS = {
    Way.COLLABORATIVE: "PipeSD",
    Way.CLOUD: "server,\nplain streaming",
    Way.LOCAL: "draft model,\nalone",
}
_LABELS = (
    "TTFT, ms",
    "TPT, ms/token",
    "  least to most",
    "tokens/s",
    "acceptance rate",
    "target passes/token",
    "bytes up/draft token",
    "TPT vs plain",
)


def rows(figures: Mapping[Way, Figures]) -> list[Row]:
    """A label and one cell a way; `-` where there is no such figure, no row where no way has it."""
    cells = [_cells(way, f, figures.get(Way.CLOUD)) for way, f in figures.items()]
    return [(label, *row) for label, *row in zip(_LABELS, *cells, strict=True) if set(row) != {NONE}]


def _cells(way: Way, figures: Figures, cloud: Figures | None) -> Row:
    """One column: a cell for each of `_LABELS`."""
    draft = figures.draft
    # Without drafts a pass gives one token: a definition, not a measurement.
    passes = "1" if way is Way.CLOUD else _cell("{:.3f}", draft.target_passes_per_token)
    return (
        f"{figures.ttft_ms:.0f}",
        f"{figures.tpt_ms:.1f}",
        NONE if figures.num_samples == 1 else "{:.1f} to {:.1f}".format(*figures.tpt_range_ms),
        f"{figures.tokens_per_s:.1f}",
        _cell("{:.1%}", draft.acceptance_rate),
        passes,
        _cell("{:.1f}", draft.uplink_bytes_per_draft_token),
        NONE if cloud is None else f"{figures.tpt_ms / cloud.tpt_ms:.2f}x",
    )


def table(figures: Mapping[Way, Figures], title: str | None = None) -> Table:
    """`rows` for the terminal."""
    result = Table(title=title, title_justify="left")
    result.add_column("")
    for way in figures:
        result.add_column(_HEADINGS[way], justify="right")
    for row in rows(figures):
        result.add_row(*row)
    return result


def figures_json(figures: Mapping[Way, Figures]) -> dict[str, Any]:
    """`{"collaborative": {...}, "cloud": {...}, "local": {...}}` and what puts them into proportion.

    Times in ms. The figures of drafting are with the collaborative way only, null where unknown.
    """
    report: dict[str, Any] = {way: _way_json(way, f) for way, f in figures.items()}
    cloud = figures.get(Way.CLOUD)
    report["ratio"] = {way: round(f.tpt_ms / cloud.tpt_ms, 4) for way, f in figures.items()} if cloud else {}
    report["tpt_range_ms"] = {way: [round(ms, 3) for ms in f.tpt_range_ms] for way, f in figures.items()}
    report["samples"] = {way: f.num_samples for way, f in figures.items()}
    return report


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Raises `CliError` if the file cannot be written."""
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CliError(f"Cannot write {path} ({error.strerror}): name another file with --json.") from error


def _way_json(way: Way, figures: Figures) -> dict[str, float | None]:
    result: dict[str, float | None] = {
        "tpt_ms": round(figures.tpt_ms, 3),
        "ttft_ms": round(figures.ttft_ms, 3),
    }
    if way is Way.COLLABORATIVE:
        draft = figures.draft
        result["acceptance_rate"] = _rounded(draft.acceptance_rate)
        result["target_passes_per_token"] = _rounded(draft.target_passes_per_token)
        result["uplink_bytes_per_draft_token"] = _rounded(draft.uplink_bytes_per_draft_token)
    return result


def _cell(layout: str, value: float | None) -> str:
    return NONE if value is None else layout.format(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
