"""What a session decides by its measurements, and what it tells the tuner."""

from dataclasses import dataclass, field, replace

import pytest

from edge_agent.api import SessionMode
from edge_agent.control import (
    BatchScheduler,
    ChainView,
    CommitOutcome,
    Decision,
    EnvironmentMonitor,
    FixedParameters,
    PolicyParameters,
    make_policy,
)
from edge_agent.drafting import Drafted
from edge_agent.sampling import DraftToken
from edge_agent.session import ControlPlane, ReceivedCommit, SessionControl
from edge_agent.tracing import NullRecorder, SessionTrace
from pipesd_vllm.wire import Commit

PARAMETERS = PolicyParameters(0.1, 0.05, max_ahead=16, patience_ms=500, max_window=12)
NOTHING = ChainView(0, 0, awaiting_commit=False)


def commit(control: SessionControl, received_s: float, *, rejected: bool = False) -> None:
    received = ReceivedCommit(1, Commit(1, 0, [5, 6]), 20, received_s)
    control.on_commit(received, CommitOutcome((5, 6), rejected=rejected), NOTHING)


def decide(control: SessionControl, number: int, probability: float) -> Decision:
    drafted = Drafted(number, DraftToken(7, probability), number * 0.06, number * 0.06 + 0.06)
    control.on_drafted(drafted, taken=True)
    return control.decide(drafted, ChainView(number, number, awaiting_commit=False))


@pytest.mark.parametrize(
    ("mode", "expected"), [(SessionMode.OFFLOAD, Decision.KEEP), (SessionMode.BALANCED, Decision.VERIFY)]
)
def test_time_is_weighed_against_passes(mode: SessionMode, expected: Decision) -> None:
    """A draft takes 60 ms, a token 100: at C = 0.56 drafting on costs time, but in `offload` saves passes."""
    plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), lambda: 0.0)
    control = plane.start_session("r", 1, "adaptive", mode)
    decide(control, 1, 1.0)
    commit(control, 1.0, rejected=True)
    commit(control, 1.2, rejected=True)
    assert decide(control, 1, 0.8) is Decision.KEEP
    assert decide(control, 2, 0.7) is expected


@dataclass
class Source:
    """A parameter source that notes what it is told."""

    parameters: PolicyParameters = PARAMETERS
    seen: list[tuple[int, float, PolicyParameters | None]] = field(default_factory=list)

    def observe(
        self, num_tokens: int, elapsed_s: float, num_passes: int, under: PolicyParameters | None = None
    ) -> bool:
        self.seen.append((num_tokens, elapsed_s, under))
        return False


def control_of(source: Source) -> SessionControl:
    monitor = EnvironmentMonitor()
    policy = make_policy("adaptive", source.parameters, BatchScheduler(monitor.link))
    return SessionControl(policy, source, monitor, SessionTrace(NullRecorder()), lambda: 0.0)


def test_a_changed_patience_counts_once_the_server_was_told() -> None:
    """The server keeps to the patience it was told last, whatever the tuner wants meanwhile."""
    source = Source()
    control = control_of(source)
    control.on_opened(0.0, 90, control.stance)
    commit(control, 1.0)
    source.parameters = wanted = replace(PARAMETERS, patience_ms=50, max_ahead=4)
    commit(control, 1.5)
    commit(control, 1.75)
    control.on_controlled(2.0, control.stance)
    commit(control, 3.0)
    commit(control, 3.5)
    assert source.seen == [
        (2, 0.5, PARAMETERS),
        (2, 0.25, replace(wanted, patience_ms=PARAMETERS.patience_ms)),
        (2, 1.25, wanted),
        (2, 0.5, wanted),
    ]


def test_the_time_a_turn_takes_to_resume_is_not_the_parameters_fault() -> None:
    """Like a turn's first commit, the first after a resumption is not reported."""
    source = Source()
    control = control_of(source)
    control.on_opened(0.0, 90, control.stance)
    commit(control, 1.0)
    control.on_opened(5.0, 90, control.stance)
    commit(control, 6.0)
    assert source.seen == []


def test_passes_with_drafts_that_were_taken_up_again_are_not_plain_streaming() -> None:
    """They yield more than a token: for want of others a step tells what streaming would take."""
    for resumed, streaming_s in ((3, 0.02), (0, 0.1)):
        plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), lambda: 0.0)
        control = plane.start_session("r", 1, "adaptive", SessionMode.AUTO)
        control.on_opened(0.0, 90, control.stance)
        for number in range(1, 5):
            frame = Commit(1, number, [5], step_ms=20.0, resumed=resumed)
            received = ReceivedCommit(1, frame, 20, number / 10)
            control.on_commit(received, CommitOutcome((5,)), NOTHING)
        assert control.streaming_s == pytest.approx(streaming_s)
