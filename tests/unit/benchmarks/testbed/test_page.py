"""The report."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.reports.page import write_report
from benchmarks.reports.records import append_record
from benchmarks.testbed.results import read_results
from openai_gateway.cli.errors import CliError
from tests.unit.benchmarks.testbed.factories import description, record


def fill(folder: Path, *scenarios: str) -> None:
    for name in scenarios:
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(description(name)))
        for policy in ("cloud", "local", "pipesd", "adaptive"):
            for seed in range(3):
                append_record(folder / f"{name}.jsonl", record(policy, seed, scenario=name, same_text=True))


def test_page_and_plots(tmp_path: Path) -> None:
    """One page that holds everything, three plots beside it, and the summary."""
    fill(tmp_path, "fast-edge", "bandwidth-10", "bandwidth-40")
    page = write_report(tmp_path).read_text()
    plots = {"tpt-humaneval.png", "passes-humaneval.png", "bandwidth-humaneval.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == plots
    assert page.count("data:image/png;base64,") == 3
    assert 'src="http' not in page
    assert "a &lt;draft&gt;" in page
    assert "not measured: no counters" in page
    assert "adaptive:offload" in page
    assert "<h2>Claims</h2>" in page
    assert len(msgspec.json.decode((tmp_path / "summary.json").read_bytes())) == 12


def test_an_empty_folder(tmp_path: Path) -> None:
    """It says how to get results."""
    with pytest.raises(CliError, match="pipesd bench run"):
        write_report(tmp_path)


def test_a_broken_line(tmp_path: Path) -> None:
    """It says which one."""
    fill(tmp_path, "fast-edge")
    with (tmp_path / "fast-edge.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(CliError, match="Line 13"):
        read_results(tmp_path)
