"""Figures as a table and as JSON."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.figures import DraftFigures, Sample, Way, summarise
from benchmarks.report import figures_json, machine, rows, table, write_json
from openai_gateway.cli.errors import CliError

DRAFT = DraftFigures(0.9, 0.25, 8.5)
FIGURES = {
    Way.COLLABORATIVE: summarise([Sample(10.0, 50.0, DRAFT), Sample(12.0, 60.0, DRAFT)]),
    Way.CLOUD: summarise([Sample(20.0, 40.0), Sample(24.0, 44.0)]),
    Way.LOCAL: summarise([Sample(8.0, 30.0), Sample(8.0, 30.0)]),
}


def test_rows() -> None:
    """Each row has a cell a way; what a way does not have is a dash."""
    assert rows(FIGURES) == [
        ("TTFT, ms", "55", "42", "30"),
        ("TPT, ms/token", "11.0", "22.0", "8.0"),
        ("  least to most", "10.0 to 12.0", "20.0 to 24.0", "8.0 to 8.0"),
        ("tokens/s", "90.9", "45.5", "125.0"),
        ("acceptance rate", "90.0%", "-", "-"),
        ("target passes/token", "0.250", "1", "-"),
        ("bytes up/draft token", "8.5", "-", "-"),
        ("TPT vs plain", "0.50x", "1.00x", "0.36x"),
    ]


def test_a_row_that_nobody_can_fill_is_left_out() -> None:
    """One run has no range."""
    single = {Way.COLLABORATIVE: summarise([Sample(10.0, 50.0, DRAFT)])}
    assert [label for label, *_ in rows(single)] == [
        "TTFT, ms",
        "TPT, ms/token",
        "tokens/s",
        "acceptance rate",
        "target passes/token",
        "bytes up/draft token",
    ]


def test_table_fits_a_narrow_terminal() -> None:
    """No cell is folded on 80 columns."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table(FIGURES))
    printed = capture.get()
    assert "10.0 to 12.0" in printed
    assert "bytes up/draft token" in printed


def test_json_has_the_agreed_keys() -> None:
    """Scripts read these names."""
    report = figures_json(FIGURES)
    assert report["collaborative"] == {
        "tpt_ms": 11.0,
        "ttft_ms": 55.0,
        "acceptance_rate": 0.9,
        "target_passes_per_token": 0.25,
        "uplink_bytes_per_draft_token": 8.5,
    }
    assert report["cloud"] == {"tpt_ms": 22.0, "ttft_ms": 42.0}
    assert report["local"] == {"tpt_ms": 8.0, "ttft_ms": 30.0}
    assert report["ratio"]["collaborative"] == 0.5


def test_json_round_trip(tmp_path: Path) -> None:
    """The file is plain JSON with plain keys."""
    path = tmp_path / "figures.json"
    write_json(path, {**figures_json(FIGURES), "machine": machine()})
    assert {"collaborative", "cloud", "local", "machine"} <= json.loads(path.read_text()).keys()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It ends in a sentence, not in a traceback."""
    with pytest.raises(CliError, match="another file"):
        write_json(tmp_path / "missing" / "figures.json", {})
