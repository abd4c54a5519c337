"""What a session tells the tuner."""

from dataclasses import dataclass, field, replace

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.monitor import EnvironmentMonitor
from edge_agent.control.policies.base import ChainView, CommitOutcome, PolicyParameters
from edge_agent.control.policies.registry import make_policy
from edge_agent.session import ReceivedCommit, SessionControl
from edge_agent.tracing.recorder import NullRecorder
from edge_agent.tracing.session_trace import SessionTrace
from pipesd_vllm.wire import Commit

BASE = PolicyParameters(0.3, 0.35, 16, 500, 8)
NOTHING = ChainView(0, 0, awaiting_commit=False)


@dataclass
class Source:
    """A parameter source that notes what it is told."""

    parameters: PolicyParameters = BASE
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


def commit(control: SessionControl, received_s: float, num_tokens: int = 2) -> None:
    tokens = tuple(range(num_tokens))
    received = ReceivedCommit(1, Commit(1, 0, list(tokens)), 20, received_s)
    control.on_commit(received, CommitOutcome(tokens), NOTHING)


def test_a_changed_patience_counts_from_the_next_opening() -> None:
    """The server keeps to the patience it was opened with, whatever the tuner wants meanwhile."""
    source = Source()
    control = control_of(source)
    control.on_opened(0.0, 90, control.patience_ms)
    commit(control, 1.0)
    source.parameters = wanted = replace(BASE, patience_ms=50, max_ahead=4)
    commit(control, 1.5)
    commit(control, 1.75)
    control.on_opened(2.0, 90, control.patience_ms)
    commit(control, 3.0)
    commit(control, 3.5)
    assert source.seen == [
        (2, 0.5, BASE),
        (2, 0.25, replace(wanted, patience_ms=BASE.patience_ms)),
        (2, 0.5, wanted),
    ]


def test_the_time_a_turn_takes_to_resume_is_not_the_parameters_fault() -> None:
    """Like a turn's first commit, the first after a resumption is not reported."""
    source = Source()
    control = control_of(source)
    control.on_opened(0.0, 90, 500)
    commit(control, 1.0)
    control.on_opened(5.0, 90, 500)
    commit(control, 6.0)
    assert source.seen == []
