"""Traces on disk."""

from pathlib import Path

import pytest

from benchmarks.pairs.agreement import TracePoint
from benchmarks.simulation.traces import TraceSet, read_traces, record_traces, write_traces
from edge_agent.fake_drafter import FakeDrafter
from openai_gateway.cli.errors import CliError
from tests.unit.benchmarks.pairs.test_agreement import VOCABULARY, counting, counting_badly


def test_recorded_and_read_back(tmp_path: Path) -> None:
    """What the draft says at each position of the target's own text, by prompt."""
    made = record_traces(
        FakeDrafter(counting, VOCABULARY), FakeDrafter(counting_badly, VOCABULARY), {"a": [0], "b": [5]}, 5
    )
    write_traces(tmp_path / "t.json", TraceSet("bad", made))
    read = read_traces(tmp_path / "t.json")
    assert read.draft == "bad"
    assert read.traces["a"] == [TracePoint(True, 0.9)] * 4 + [TracePoint(False, 0.2)]
    assert all(point.agrees for point in read.traces["b"])


def test_no_traces(tmp_path: Path) -> None:
    """It says how to record some."""
    with pytest.raises(CliError, match="--record"):
        read_traces(tmp_path / "none.json")
