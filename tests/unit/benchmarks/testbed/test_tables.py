"""Cells."""

from io import StringIO

from rich.console import Console

from benchmarks.reports.metrics import METRICS, rows
from benchmarks.testbed.results import Results
from benchmarks.reports.tables import COLUMNS, cell, compared, tables
from tests.unit.benchmarks.testbed.factories import description, record


def test_every_metric_has_a_column() -> None:
    """Nothing that is computed is left out of the report."""
    assert list(COLUMNS) == list(METRICS)


def test_cells() -> None:
    """The range stands beside the median where there are several seeds; what is unknown is a dash."""
    (one,) = rows([record("pipesd", same_text=True)])
    (several,) = rows([record("pipesd", seed, total_s=1.0 + seed) for seed in range(3)])
    assert cell(one, "tpt_ms") == "100.0"
    assert cell(several, "tpt_ms") == "200.0 (100.0 to 300.0)"
    assert cell(one, "energy_j_per_100_tokens") == "-"
    assert (compared(one), compared(several)) == ("1/1", "-")


def test_a_table_each() -> None:
    """One table for each scenario and data set."""
    records = [
        record(policy, dataset=name) for policy in ("cloud", "pipesd") for name in ("humaneval", "gsm8k")
    ]
    made = tables(Results({"fast-edge": description()}, records), ["fast-edge"])
    assert [table.row_count for table in made] == [2, 2]


def test_a_table_fits_into_a_terminal() -> None:
    """At 80 characters nothing is cut off, not even the longest names and figures."""
    records = [record("vanilla", seed, wire="published", same_text=True, total_s=6.4) for seed in range(3)]
    (made,) = tables(Results({"fast-edge": description()}, records), ["fast-edge"])
    console = Console(width=80, file=StringIO())
    console.print(made)
    assert "\u2026" not in console.file.getvalue()  # type: ignore[attr-defined]
