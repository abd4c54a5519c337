"""What the plugin adds to vLLM's metrics, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from pipesd_vllm.api.metrics import Overhead, ServerMetrics
from pipesd_vllm.scheduling import PassReport
from pipesd_vllm.wire import Commit, Draft


def test_a_round_is_counted() -> None:
    """Tokens, passes and times of a frame and its commit; seconds, where the wire has milliseconds."""
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    metrics.count_draft(Draft(1, 1, 5, 0, [7, 8, 9]))
    commit = Commit(1, 5, [7, 8], passes=1, drafted=3, accepted=1, queue_ms=2.0, step_ms=250.0)
    report = PassReport(step_drafts=12, seats_taken=5, parked=3)
    metrics.count_commit(commit, Overhead(0.25, 0.125, 4.0, report), 0.5, key="0123456789abcdef")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"pipesd_{name}", labels)

    assert value("draft_tokens_received_total") == 3
    assert value("target_passes_total") == 1
    assert value("committed_tokens_total") == 2
    assert value("draft_tokens_verified_total") == 3
    assert value("draft_tokens_accepted_total") == 1
    assert value("step_seconds_sum") == 0.25
    assert value("queue_seconds_sum") == 0.002
    assert value("rejected_draft_tokens_total", key="01234567") == 2
    assert [value(name) for name in ("step_draft_tokens", "seats_taken", "parked_sessions")] == [12, 5, 3]
    parts = {part: value("own_seconds_sum", part=part) for part in ("receive", "schedule", "send")}
    assert parts == {"receive": 0.25, "schedule": 0.125, "send": 0.5}


def test_a_commit_that_nobody_asked_for() -> None:
    """It has no receiving part."""
    registry = CollectorRegistry()
    ServerMetrics(registry).count_commit(Commit(1, 5, [7]), Overhead(None, 0.0, 0.0), 0.5)
    assert registry.get_sample_value("pipesd_own_seconds_count", {"part": "receive"}) == 0
    assert registry.get_sample_value("pipesd_own_seconds_count", {"part": "send"}) == 1
