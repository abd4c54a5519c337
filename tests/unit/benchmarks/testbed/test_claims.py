"""Claims and what was measured."""

from benchmarks.scenarios.loading import scenario_names
from benchmarks.reports.claims import CLAIMS, claims_table, verdicts
from benchmarks.reports.metrics import rows
from benchmarks.reports.records import RunRecord
from tests.unit.benchmarks.testbed.factories import record


def measured(policy: str, total_s: float, passes: float, **fields: object) -> RunRecord:
    return record(policy, total_s=total_s, target_passes=passes, **fields)


def found(*records: RunRecord) -> list[tuple[str, str, float, bool, bool]]:
    return [
        (v.ours.label, v.rival.label, round(v.ratio, 2), v.within_passes, v.holds)
        for v in verdicts(rows(records))
    ]


def test_only_what_both_sides_were_measured_in() -> None:
    """No rival, or none of ours: no verdict."""
    assert found(measured("pipesd", 1.0, 4.0)) == []
    assert found(measured("adaptive", 1.0, 4.0)) == []


def test_the_fastest_of_ours_that_keeps_to_the_passes() -> None:
    """A faster mode with more target passes than the rival does not count."""
    assert found(
        measured("pipesd", 1.0, 4.0),
        measured("adaptive", 1.02, 3.0),
        measured("adaptive", 0.5, 5.0, mode="balanced"),
    ) == [("adaptive:offload", "pipesd:thin", 0.98, True, True)]


def test_if_none_keeps_to_them_the_claim_is_missed() -> None:
    """The fastest is shown, and that it does not count."""
    assert found(measured("pipesd", 1.0, 4.0), measured("adaptive", 0.5, 5.0)) == [
        ("adaptive:offload", "pipesd:thin", 2.0, False, False)
    ]


def test_plain_streaming_is_beaten_within_a_limit() -> None:
    """Against one pass a token the claim has a limit of its own; the mode `latency` has its own claim."""
    cloud = measured("cloud", 2.0, 10.0)
    assert found(cloud, measured("adaptive", 1.0, 4.6)) == [("adaptive:offload", "cloud", 2.0, False, False)]
    assert found(cloud, measured("adaptive", 1.0, 4.4)) == [("adaptive:offload", "cloud", 2.0, True, True)]
    assert found(cloud, measured("adaptive", 2.2, 10.0, mode="latency")) == [
        ("adaptive:latency", "cloud", 0.91, True, False)
    ]


def test_claims_are_about_scenarios_that_exist() -> None:
    """No claim can be forgotten by a misspelt name; the table has a line for each verdict."""
    assert {claim.scenario for claim in CLAIMS} <= set(scenario_names())
    table = claims_table(verdicts(rows([measured("pipesd", 1.0, 4.0), measured("adaptive", 0.5, 4.0)])))
    assert table.row_count == 1
