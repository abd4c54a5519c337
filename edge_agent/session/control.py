"""How a session decides and measures: its policy, and what it tells monitor, tuner and trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edge_agent.control import (
    AgentParameters,
    BatchScheduler,
    CalibratedConfidence,
    ChainView,
    CommitOutcome,
    Confidence,
    Decision,
    EnvironmentMonitor,
    Policy,
    RawConfidence,
    SessionParameters,
    make_policy,
)
from edge_agent.drafting import Drafted
from edge_agent.session.turn import ReceivedCommit
from edge_agent.tracing import SessionTrace, TraceRecorder
from pipesd_vllm.wire import Commit, Draft, Mode

__all__ = ["ControlPlane", "SessionControl"]


class ControlPlane:
    """What the sessions of an agent share: monitor, batch scheduler, parameters and trace."""

    def __init__(
        self, parameters: AgentParameters, recorder: TraceRecorder, clock: Callable[[], float]
    ) -> None:
        self.monitor = EnvironmentMonitor()
        self._scheduler = BatchScheduler(self.monitor.link)
        self._parameters = parameters
        self._recorder = recorder
        self._clock = clock
        self._sampled_confidence = CalibratedConfidence()

    def start_session(
        self, request_id: str, prompt_len: int, policy: str, mode: Mode, *, sampled: bool = False
    ) -> SessionControl:
        """Controls for one generation; `sampled`: at a temperature above 0.

        Raises `ConfigError` for an unknown policy.
        """
        eager = mode is Mode.LATENCY
        session_parameters = self._parameters.for_session(policy, mode, self.monitor.snapshot())
        # Where passes are to be saved, drafting on has no point at which it costs more than it saves.
        costs = None if mode is Mode.OFFLOAD else self.monitor.snapshot
        chosen = make_policy(
            policy, session_parameters.parameters, self._scheduler, eager_server=eager, costs=costs
        )
        trace = SessionTrace(self._recorder)
        trace.started(self._clock(), request_id, prompt_len, policy=policy, mode=str(mode))
        confidence = self._sampled_confidence if sampled else RawConfidence()
        return SessionControl(chosen, session_parameters, self.monitor, trace, self._clock, confidence)

    def close(self) -> None:
        """Write what the trace still holds and what was tuned. Idempotent."""
        self._recorder.close()
        self._parameters.close()


class SessionControl:
    """Policy and measurements of one session. Call in the order of its loop. `clock` gives seconds."""

    def __init__(
        self,
        policy: Policy,
        session_parameters: SessionParameters,
        monitor: EnvironmentMonitor,
        trace: SessionTrace,
        clock: Callable[[], float],
        confidence: Confidence | None = None,
    ) -> None:
        self.trace = trace
        self._policy = policy
        self._session_parameters = session_parameters
        self._monitor = monitor
        self._clock = clock
        self._confidence = confidence or RawConfidence()
        self._parameters = session_parameters.parameters
        self._patience_in_force_ms = self._parameters.patience_ms
        self._last_commit_s: float | None = None
        self._asked: tuple[float, int] | None = None
        """When verification was asked for with no other under way, and the frame's number of drafts."""

    @property
    def patience_ms(self) -> int:
        """What to ask of the server when the turn opens."""
        return self._parameters.patience_ms

    def on_opened(self, sent_s: float, num_bytes: int, patience_ms: int) -> None:
        """The turn was opened, resumed or reopened; the server keeps to this patience until the next time."""
        self.trace.opened(sent_s, num_bytes)
        self._patience_in_force_ms = patience_ms
        self._last_commit_s = None
        self._asked = None

    def max_ahead(self, view: ChainView) -> int:
        """Most drafts that may exist beyond the frontier now."""
        return self._policy.ahead(view)

    def on_drafted(self, event: Drafted) -> None:
        """The worker made a draft, useful or not."""
        self._monitor.on_draft_step(event.ended_s - event.started_s)
        self.trace.drafted(event.started_s, event.ended_s, event.position, event.draft)

    def decide(self, event: Drafted, view: ChainView) -> Decision:
        """What to do now that `event` has joined the chain."""
        return self._policy.on_draft(self._confidence.estimate(event.draft.probability), view)

    def on_sent(self, sent_s: float, draft: Draft, num_bytes: int, *, awaiting_commit: bool) -> None:
        """A draft frame went out; `awaiting_commit`: another verification was under way before."""
        self._monitor.on_upload(len(draft.tokens), self._clock() - sent_s)
        self.trace.sent(sent_s, draft, num_bytes)
        if draft.verify and not awaiting_commit:
            self._asked = (sent_s, len(draft.tokens))

    def on_commit(self, received: ReceivedCommit, outcome: CommitOutcome, view: ChainView) -> Decision:
        """The target answered; what to do with drafts that were held back meanwhile."""
        commit = received.commit
        self.trace.committed(received.received_s, commit, received.num_bytes)
        self._measure(commit, received.received_s)
        self._confidence.observe(outcome.checked_drafts)
        self._tune(commit, len(outcome.new_tokens), received.received_s)
        self._policy.on_commit(outcome)
        return self._policy.after_commit(view)

    def on_void(self, position: int, num_discarded: int) -> None:
        """Drafts from `position` on were taken back."""
        self.trace.rolled_back(self._clock(), position, num_discarded)
        self._policy.on_void()

    def _measure(self, commit: Commit, received_s: float) -> None:
        queue_s, step_s = commit.queue_ms / 1e3, commit.step_ms / 1e3
        asked, self._asked = self._asked, None
        if asked is not None and commit.drafted and commit.passes == 1:
            self._monitor.on_verify_round(asked[1], received_s - asked[0], queue_s, step_s)
        else:
            self._monitor.on_server_times(queue_s, step_s)
        self._monitor.on_acceptance(commit.drafted, commit.accepted)

    def _tune(self, commit: Commit, num_tokens: int, received_s: float) -> None:
        last_s, self._last_commit_s = self._last_commit_s, received_s
        if last_s is None:
            return
        self._monitor.on_progress(num_tokens, received_s - last_s)
        under = replace(self._parameters, patience_ms=self._patience_in_force_ms)
        self._session_parameters.observe(num_tokens, received_s - last_s, commit.passes, under)
        if self._session_parameters.parameters != self._parameters:
            self._parameters = self._session_parameters.parameters
            self._policy.retune(self._parameters)
