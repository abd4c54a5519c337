"""Events of one session, written down by hand."""

from __future__ import annotations

import pytest

from edge_agent.tracing import (
    Committed,
    Drafted,
    Opened,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
    TraceEvent,
)


@pytest.fixture
def by_hand() -> list[TraceEvent]:
    """Three positions of prompt, 10 ms each way, 4 ms drafts, 20 ms passes.

    The first frame [10 11] is kept and followed by the target's 12; 12 was drafted meanwhile. Of the
    second [13 14 15] the target keeps 13 and refuses 14 and 15; 16 is drafted on top of them in vain.
    """
    return [
        SessionStarted(1, 100.000, "request-1", 3, "pipesd", "offload"),
        Opened(1, 100.000, 150),
        Drafted(1, 100.000, 100.004, 3, 10, 0.9),
        Drafted(1, 100.004, 100.008, 4, 11, 0.5),
        Sent(1, 100.008, 2, 3, 1, True, 30),
        Drafted(1, 100.008, 100.012, 5, 12, 0.8),
        Drafted(1, 100.012, 100.016, 6, 13, 0.7),
        Committed(1, 100.053, 3, [10, 11, 12], 1, 2, 2, 5.0, 20.0, 25),
        Drafted(1, 100.053, 100.057, 7, 14, 0.6),
        Drafted(1, 100.057, 100.061, 8, 15, 0.6),
        Sent(1, 100.061, 3, 6, 3, True, 32),
        Drafted(1, 100.061, 100.065, 9, 16, 0.6),
        Committed(1, 100.101, 6, [13, 99], 1, 3, 1, 0.0, 20.0, 23),
        RolledBack(1, 100.101, 7, 0),
        SessionEnded(1, 100.102, "stop"),
    ]
