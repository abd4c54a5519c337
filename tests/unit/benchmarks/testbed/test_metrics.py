"""Figures from records."""

import pytest

from benchmarks.reports.metrics import percentile, rows, summary
from tests.unit.benchmarks.testbed.factories import record


def test_a_seed_is_one_figure() -> None:
    """Runs of a seed are added up; over seeds come the median and the range."""
    (row,) = rows([record(seed=0), record(seed=0, total_s=3.0), record(seed=1), record(seed=2, total_s=4.0)])
    tpt = row.figures["tpt_ms"]
    assert (tpt.median, tpt.least, tpt.most) == (200.0, 100.0, 400.0)
    assert (row.num_seeds, row.num_runs) == (3, 4)
    assert row.figures["tokens_per_s"].median == 5.0


def test_drafting_figures() -> None:
    """Acceptance, NAV rate, passes and the share rolled back are sums over sums."""
    (row,) = rows([record("adaptive")])
    figures = {name: figure.median for name, figure in row.figures.items()}
    assert figures["acceptance_rate"] == 0.5
    assert figures["nav_per_100_tokens"] == 40.0
    assert figures["target_passes_per_token"] == 0.5
    assert figures["rolled_back_share"] == pytest.approx(4 / 12)
    assert figures["up_bytes_per_token"] == 100.0
    assert figures["server_cpu_ms_per_token"] == 50.0


def test_what_was_not_measured_is_missing() -> None:
    """No figure is made up for drafting where nothing is drafted, or for energy without a counter."""
    (row,) = rows([record("cloud")])
    assert "acceptance_rate" not in row.figures
    assert "energy_j_per_100_tokens" not in row.figures
    assert row.figures["target_passes_per_token"].median == 1.0


def test_summary() -> None:
    """Exactly the fields that are promised, one entry a rival; null where there is no figure."""
    entries = summary(rows([record("cloud"), record("pipesd")]))
    assert entries == [
        {
            "scenario": "fast-edge",
            "policy": "cloud",
            "wire": None,
            "mode": None,
            "dataset": "humaneval",
            "tpt_ms": 100.0,
            "target_passes_per_token": 1.0,
            "acceptance_rate": None,
        },
        {
            "scenario": "fast-edge",
            "policy": "pipesd",
            "wire": "thin",
            "mode": "offload",
            "dataset": "humaneval",
            "tpt_ms": 100.0,
            "target_passes_per_token": 0.5,
            "acceptance_rate": 0.5,
        },
    ]


def test_percentiles() -> None:
    """Nearest rank, so that a percentile is a value that occurred."""
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0


def test_order() -> None:
    """Rivals stand in the same order whoever came first in the run."""
    records = [record("adaptive"), record("cloud"), record("pipesd", wire="published"), record("pipesd")]
    labels = [row.label for row in rows(records)]
    assert labels == ["cloud", "pipesd:published", "pipesd:thin", "adaptive:offload"]
