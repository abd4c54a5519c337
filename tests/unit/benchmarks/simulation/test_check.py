"""The model beside records of the testbed."""

import msgspec
import pytest

from benchmarks.pairs.agreement import TracePoint
from benchmarks.simulation.check import compare
from benchmarks.simulation.costs import Costs
from benchmarks.reports.records import RunRecord
from benchmarks.testbed.results import Description
from tests.unit.benchmarks.testbed.factories import description, record

COSTS = Costs(gamma_s=0.008, step_s=0.040, token_s=0.0)
SETTINGS = {
    "sequence_threshold": 0.3,
    "token_threshold": 0.35,
    "max_ahead": 16,
    "patience_ms": 500,
    "max_window": 8,
    "draft_threads": 1,
}


def with_settings(described: Description) -> Description:
    return msgspec.structs.replace(described, settings=SETTINGS)


def test_compares_drafting_rivals_on_known_prompts() -> None:
    """Plain streaming and prompts without a trace are left out; the error is relative to the testbed."""
    runs: list[RunRecord] = [
        record("cloud"),
        record("vanilla"),
        record("vanilla", prompt="other", total_s=99.0),
    ]
    traces = {"p": [TracePoint(True, 0.9)] * 10}
    (compared,) = compare(runs, traces, with_settings(description()), COSTS)
    assert (compared.label, compared.measured_ms) == ("vanilla:thin", 100.0)
    assert compared.error == pytest.approx(compared.simulated_ms / 100.0 - 1.0)
    assert 10.0 < compared.simulated_ms < 40.0
