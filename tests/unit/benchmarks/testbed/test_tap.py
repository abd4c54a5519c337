"""Counting on the way through."""

from benchmarks.testbed.tap import CommitCounter
from pipesd_vllm.protocol import Commit, RefusalCode, Refused


def test_counts_verifying_commits() -> None:
    """A pass that checked drafts is a NAV; every pass makes the engine busy."""
    counter = CommitCounter()
    for message in (
        Commit(1, 0, [1], drafted=4, accepted=1, step_ms=20.0),
        Commit(1, 1, [1], step_ms=30.0),
        Refused(1, RefusalCode.OVERLOADED, "later"),
    ):
        counter.take(message)
    assert counter.num_nav == 1
    assert counter.busy_s == 0.05
