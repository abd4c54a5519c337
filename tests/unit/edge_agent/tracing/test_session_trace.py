"""The session loop's side of a trace."""

from edge_agent.sampling import DraftToken
from edge_agent.tracing import (
    Committed,
    Drafted,
    MemoryRecorder,
    Opened,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
    SessionTrace,
)
from pipesd_vllm.wire import Commit, Draft


def record_all(trace: SessionTrace) -> None:
    trace.started(1.0, "request-1", 20, policy="adaptive", mode="latency")
    trace.opened(1.1, 90)
    trace.drafted(1.2, 1.3, 20, DraftToken(7, 0.5))
    trace.sent(1.4, Draft(1, 1, 20, 0, [7]), 21)
    trace.committed(1.5, Commit(1, 20, [8], 1, 1, 0, 2.0, 30.0), 19)
    trace.rolled_back(1.6, 20, 1)
    trace.ended(1.7, "stop")


def test_each_call_records_one_event_of_the_session() -> None:
    """The events carry what was passed, under a number that other sessions do not have."""
    recorder = MemoryRecorder()
    SessionTrace(recorder)
    record_all(SessionTrace(recorder))
    assert recorder.events == [
        SessionStarted(2, 1.0, "request-1", 20, "adaptive", "latency"),
        Opened(2, 1.1, 90),
        Drafted(2, 1.2, 1.3, 20, 7, 0.5),
        Sent(2, 1.4, 1, 20, 1, True, 21),
        Committed(2, 1.5, 20, [8], 1, 1, 0, 2.0, 30.0, 19),
        RolledBack(2, 1.6, 20, 1),
        SessionEnded(2, 1.7, "stop"),
    ]


def test_nothing_is_recorded_unless_it_is_wanted() -> None:
    """A recorder that is not enabled is never called."""

    class Unwanted(MemoryRecorder):
        def record(self, event: object) -> None:
            raise AssertionError("not enabled")

    recorder = Unwanted()
    recorder.enabled = False
    record_all(SessionTrace(recorder))
