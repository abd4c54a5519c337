"""From records to figures, tables, plots and a page."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.rivals import parse_rivals
from benchmarks.reports.metrics import rows, table, tables
from benchmarks.reports.page import write_report
from benchmarks.reports.records import (
    Results,
    RunRecord,
    append_record,
    read_results,
    with_same_text,
    write_json,
)
from edge_agent.api import GenerationStats
from openai_gateway.cli.errors import CliError
from tests.unit.benchmarks.factories import description, record


def record_of(name: str, stats: GenerationStats | None = None) -> RunRecord:
    answer = TimedAnswer("id", "a", 4, 10.0, (10.1, 10.2, 10.4), (10.1, 10.2, 10.4), stats)
    [rival] = parse_rivals([name])
    labels = {"scenario": "s", "seed": 0, "dataset": "humaneval", "prompt": "p"}
    return RunRecord.of(rival, answer, target_passes=6.0, **labels)


def test_what_an_answer_becomes() -> None:
    """A drafting rival tells its own passes, plain streaming has the engine's, the draft alone none."""
    stats = GenerationStats(target_passes=3, draft_tokens_verified=5, draft_tokens_accepted=2)
    plain, local = record_of("cloud"), record_of("local", stats)
    ours = record_of("pipesd:thin", stats)
    assert [each.target_passes for each in (plain, local, ours)] == [6, 0, 3]
    assert (ours.drafts_verified, ours.drafts_accepted) == (5, 2)
    assert plain.drafts_sent is local.drafts_sent is None
    assert plain.gaps_ms == [100.0, 200.0]
    assert (plain.ttft_s, plain.total_s) == (pytest.approx(0.1), pytest.approx(0.4))


def test_texts_are_compared_with_plain_streaming() -> None:
    """Drafting rivals alone are compared, wherever plain streaming stands in the order."""
    names = (("pipesd:thin", "a"), ("adaptive:offload", "b"), ("cloud", "a"), ("local", ""))
    made = [(record_of(name), text) for name, text in names]
    assert [each.same_text for each in with_same_text(made)] == [True, False, None, None]
    assert [each.same_text for each in with_same_text(made[:2])] == [None, None]


def test_a_seed_is_one_figure() -> None:
    """Runs of a seed are added up; over seeds come the median and the range."""
    (row,) = rows([record(seed=0), record(seed=0, total_s=3.0), record(seed=1), record(seed=2, total_s=4.0)])
    tpt = row.figures["tpt_ms"]
    assert (tpt.median, tpt.least, tpt.most) == (200.0, 100.0, 400.0)
    assert (row.num_seeds, row.num_runs) == (3, 4)


def test_drafting_figures() -> None:
    """Acceptance, passes, bytes and the share rolled back are sums over sums."""
    (row,) = rows([record("adaptive")])
    figures = {name: figure.median for name, figure in row.figures.items()}
    assert figures["acceptance_rate"] == 0.5
    assert figures["target_passes_per_token"] == 0.5
    assert figures["rolled_back_share"] == pytest.approx(4 / 12)
    assert figures["bytes_per_draft"] == 8.5
    assert figures["up_bytes_per_token"] == 100.0
    assert figures["server_cpu_ms_per_token"] == 50.0


def test_what_was_not_measured_is_missing() -> None:
    """No figure is made up for drafting where nothing is drafted, or for memory that was not read."""
    (row,) = rows([record("cloud")])
    assert "acceptance_rate" not in row.figures
    assert row.median("server_rss_mb") is None
    assert row.figures["target_passes_per_token"].median == 1.0


def test_percentiles() -> None:
    """Nearest rank, so that a percentile is a value that occurred."""
    (row,) = rows([record(gaps_ms=[float(i) for i in range(1, 101)])])
    assert [row.median(f"itl_p{n}_ms") for n in (50, 99)] == [50.0, 99.0]


def test_order_of_rivals() -> None:
    """Rivals stand in the same order whoever came first in the run."""
    records = [record("adaptive"), record("cloud"), record("pipesd", wire="published"), record("pipesd")]
    assert [row.label for row in rows(records)] == [
        "cloud",
        "pipesd:published",
        "pipesd:thin",
        "adaptive:offload",
    ]


def printed(*tables: Table, width: int = 80) -> str:
    console = Console(width=width, file=StringIO())
    console.print(*tables)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_cells() -> None:
    """Several seeds have a range; what is not known is a dash; texts are counted where they were compared."""
    one = table("t", rows([record("pipesd", same_text=True), record("cloud")]), full=True)
    several = table("t", rows([record("pipesd", seed, total_s=1.0 + seed) for seed in range(3)]), full=True)
    assert [list(column.cells) for column in one.columns if column.header == "acc."] == [["-", "0.50"]]
    assert list(one.columns[-1].cells) == ["-", "1/1"]
    assert "200.0 (100.0 to 300.0)" in printed(several, width=300)


def test_a_table_for_each_scenario_and_data_set() -> None:
    """At 80 characters nothing is cut off, not even the longest names and figures."""
    records = [
        record(policy, seed, dataset=name, wire="published" if policy == "vanilla" else None, total_s=6.4)
        for policy in ("cloud", "vanilla")
        for name in ("humaneval", "gsm8k")
        for seed in range(3)
    ]
    made = tables(Results({"fast-edge": description()}, records), "fast-edge")
    assert [each.row_count for each in made] == [2, 2]
    assert "\u2026" not in printed(*made)


def test_a_column_that_nobody_can_fill_is_left_out() -> None:
    """Plain streaming alone has no acceptance."""
    shown, plain = (table("t", rows([record(policy)])) for policy in ("pipesd", "cloud"))
    assert any(column.header == "acc." for column in shown.columns)
    assert not any(column.header == "acc." for column in plain.columns)


def fill(folder: Path, *scenarios: str) -> None:
    for name in scenarios:
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(description(name)))
        for policy in ("cloud", "local", "pipesd"):
            for seed in range(3):
                append_record(folder / f"{name}.jsonl", record(policy, seed, scenario=name, same_text=True))


def test_page_plots_and_summary(tmp_path: Path) -> None:
    """One page that holds everything, plots beside it, and exactly the promised fields a rival."""
    fill(tmp_path, "fast-edge", "bandwidth-10", "bandwidth-40")
    page = write_report(tmp_path).read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"tpt-humaneval.png", "bandwidth-humaneval.png"}
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page
    assert "a &lt;draft&gt;" in page
    assert "pipesd:thin" in page
    entries = msgspec.json.decode((tmp_path / "summary.json").read_bytes())
    assert len(entries) == 9
    assert {
        "scenario": "fast-edge",
        "policy": "pipesd",
        "wire": "thin",
        "mode": "offload",
        "dataset": "humaneval",
        "tpt_ms": 100.0,
        "target_passes_per_token": 0.5,
        "acceptance_rate": 0.5,
    } in entries


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """An empty one says how to get results; a broken line is named."""
    with pytest.raises(CliError, match="pipesd bench run"):
        write_report(tmp_path)
    fill(tmp_path, "fast-edge")
    with (tmp_path / "fast-edge.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(CliError, match="Line 10"):
        read_results(tmp_path)


def test_json(tmp_path: Path) -> None:
    """Plain JSON with the machine beside it; a file that cannot be written ends in a sentence."""
    write_json(path := tmp_path / "figures.json", {"tpt_ms": 1.5})
    assert json.loads(path.read_text()).keys() == {"tpt_ms", "machine"}
    with pytest.raises(CliError, match="another file"):
        write_json(tmp_path / "missing" / "figures.json", {})
