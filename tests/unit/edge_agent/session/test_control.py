"""What sessions of one agent share."""

import pytest

from edge_agent.control.parameters import FixedParameters
from edge_agent.control.policies.base import ChainView, CommitOutcome, Decision, PolicyParameters
from edge_agent.drafting.events import Drafted
from edge_agent.sampling.picker import DraftToken
from edge_agent.session import ControlPlane, ReceivedCommit, SessionControl
from edge_agent.tracing.recorder import NullRecorder
from pipesd_vllm.wire import Commit, Mode

PARAMETERS = PolicyParameters(0.1, 0.05, max_ahead=16, patience_ms=500, max_window=12)
NOTHING = ChainView(0, 0, awaiting_commit=False)


def commit(control: SessionControl, received_s: float) -> None:
    received = ReceivedCommit(1, Commit(1, 0, [5, 6]), 20, received_s)
    control.on_commit(received, CommitOutcome((5, 6), rejected=True), NOTHING)


def decide(control: SessionControl, number: int, probability: float) -> Decision:
    drafted = Drafted(number, DraftToken(7, probability), number * 0.06, number * 0.06 + 0.06)
    control.on_drafted(drafted)
    return control.decide(drafted, ChainView(number, number, awaiting_commit=False))


@pytest.mark.parametrize(
    ("mode", "expected"), [(Mode.OFFLOAD, Decision.KEEP), (Mode.BALANCED, Decision.VERIFY)]
)
def test_time_is_weighed_against_passes(mode: Mode, expected: Decision) -> None:
    """A draft takes 60 ms, a token 100: at C = 0.56 drafting on costs time, but in `offload` saves passes."""
    plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), lambda: 0.0)
    control = plane.start_session("r", 1, "adaptive", mode)
    decide(control, 1, 1.0)
    commit(control, 1.0)
    commit(control, 1.2)
    assert decide(control, 1, 0.8) is Decision.KEEP
    assert decide(control, 2, 0.7) is expected
