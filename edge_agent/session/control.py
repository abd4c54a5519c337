"""How a session decides and measures: its policy, and what it tells monitor, tuner and trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from edge_agent.api import SessionMode, Source
from edge_agent.control import (
    DEFAULT_POLICY,
    AdaptivePolicy,
    AgentParameters,
    Arm,
    BatchScheduler,
    CalibratedConfidence,
    ChainView,
    CommitOutcome,
    Confidence,
    Decision,
    EnvironmentMonitor,
    ModeChooser,
    Policy,
    PolicyParameters,
    RawConfidence,
    SessionParameters,
    Stance,
    make_policy,
    takes_lookup,
)
from edge_agent.drafting import Drafted
from edge_agent.sampling import DraftToken
from edge_agent.session.turn import ReceivedCommit
from edge_agent.tracing import SessionTrace, TraceRecorder
from pipesd_vllm.wire import Commit, Draft, Mode

__all__ = ["ControlPlane", "SessionControl"]

_LEAST_SURVIVAL: Final = 0.2
_LEAST_SURVIVAL_EAGER: Final = 0.05


class ControlPlane:
    """What the sessions of an agent share: monitor, batch scheduler, mode choosers, parameters and trace."""

    def __init__(
        self,
        parameters: AgentParameters,
        recorder: TraceRecorder,
        clock: Callable[[], float],
        *,
        pass_weight_ms: float = 0.0,
    ) -> None:
        """`pass_weight_ms`: what a target pass is worth, in ms of waiting (lambda of the mode `auto`)."""
        self.monitor = EnvironmentMonitor()
        self._scheduler = BatchScheduler(self.monitor.link)
        self._parameters = parameters
        self._recorder = recorder
        self._clock = clock
        self._pass_weight_ms = pass_weight_ms
        self._confidences: dict[tuple[bool, bool], Confidence] = {}
        self._choosers: dict[tuple[bool, bool], ModeChooser] = {}

    def start_session(
        self, request_id: str, prompt_len: int, policy: str, mode: SessionMode, *, sampled: bool = False
    ) -> SessionControl:
        """Controls for one generation; `sampled`: at a temperature above 0.

        Raises `ConfigError` for an unknown policy.
        """
        session_parameters = self._parameters.for_session(policy, mode, self.monitor.snapshot())
        parameters = session_parameters.parameters
        # Where passes are to be saved, drafting on has no point at which it costs more than it saves.
        costs = None if mode is SessionMode.OFFLOAD else self.monitor.snapshot
        chosen = make_policy(policy, parameters, self._scheduler, costs=costs)
        trace = SessionTrace(self._recorder)
        trace.started(self._clock(), request_id, prompt_len, policy=policy, mode=str(mode))
        is_ours = policy == DEFAULT_POLICY
        return SessionControl(
            chosen,
            session_parameters,
            self.monitor,
            trace,
            self._clock,
            self._confidence(sampled=sampled, is_ours=is_ours),
            mode=mode,
            chooser=self._chooser(mode, parameters, sampled=sampled) if is_ours else None,
        )

    def _confidence(self, *, sampled: bool, is_ours: bool) -> Confidence:
        """The literature's thresholds are about a draft's own probability, for greedy text."""
        new = CalibratedConfidence if sampled or is_ours else RawConfidence
        return self._confidences.setdefault((sampled, is_ours), new())

    def _chooser(
        self, mode: SessionMode, parameters: PolicyParameters, *, sampled: bool
    ) -> ModeChooser | None:
        if mode not in (SessionMode.AUTO, SessionMode.LATENCY):
            return None
        may_wait = mode is SessionMode.AUTO
        if (sampled, may_wait) not in self._choosers:
            self._choosers[sampled, may_wait] = ModeChooser(
                self.monitor.snapshot,
                may_wait=may_wait,
                pass_weight_ms=self._pass_weight_ms,
                max_ahead=parameters.max_ahead,
                max_patience_ms=parameters.patience_ms,
            )
        return self._choosers[sampled, may_wait]

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
        *,
        mode: SessionMode = SessionMode.BALANCED,
        chooser: ModeChooser | None = None,
    ) -> None:
        """`chooser`: what sets the session's stance; None: `mode` does."""
        self.trace = trace
        self._policy = policy
        self._session_parameters = session_parameters
        self._monitor = monitor
        self._clock = clock
        self._confidence = confidence or RawConfidence()
        self._parameters = session_parameters.parameters
        self._mode = Mode(mode) if mode is not SessionMode.AUTO else Mode.BALANCED
        self._chooser = chooser
        self._in_force = self.stance
        self._patience_in_force_ms = self._parameters.patience_ms
        self._last_commit_s: float | None = None
        self._settled_s = 0.0
        """Until then commits may come from before the last change of stance."""
        self._asked: tuple[float, int] | None = None
        """When verification was asked for with no other under way, and the frame's number of drafts."""

    @property
    def stance(self) -> Stance:
        """What the session is to do now."""
        if self._chooser is not None:
            return self._chooser.stance
        return Stance(self._mode, self._parameters.patience_ms)

    @property
    def in_force(self) -> tuple[Arm, str]:
        """What the session does now, and why, for people."""
        if self._chooser is not None:
            return self._chooser.arm, self._chooser.reason
        patience_ms = "" if self._mode is Mode.OFFLOAD else f", for {self._parameters.patience_ms} ms at most"
        return (Arm.OVERLAP, "set") if self._mode is Mode.LATENCY else (Arm.WAIT, f"set{patience_ms}")

    @property
    def streaming_s(self) -> float | None:
        """What a token takes when the server streams: as measured, else a pass; None: not known."""
        measured_ms = None if self._chooser is None else self._chooser.streaming_ms
        return self._monitor.step_s if measured_ms is None else measured_ms / 1e3

    def on_opened(self, sent_s: float, num_bytes: int, stance: Stance) -> None:
        """The turn was opened, resumed or reopened; the server keeps to this stance until told another."""
        self.trace.opened(sent_s, num_bytes)
        self._follow(stance)
        self._last_commit_s = None
        self._asked = None

    def on_controlled(self, sent_s: float, stance: Stance) -> None:
        """The server was told another stance."""
        self._follow(stance)
        self._settled_s = sent_s + (self._monitor.snapshot().rtt_s or 0.0)

    def _follow(self, stance: Stance) -> None:
        self._in_force = stance
        self._patience_in_force_ms = stance.patience_ms
        self._policy.serve(eager=stance.mode is Mode.LATENCY)

    def max_ahead(self, view: ChainView) -> int:
        """Most drafts that may exist beyond the frontier now."""
        return self._policy.ahead(view)

    def on_drafted(self, event: Drafted, *, taken: bool) -> None:
        """The worker made a draft; `taken`: it has joined the chain."""
        self._monitor.on_draft_step(event.ended_s - event.started_s)
        self.trace.drafted(event.started_s, event.ended_s, event.position, event.draft, taken=taken)

    def decide(self, event: Drafted, view: ChainView) -> Decision:
        """What to do now that `event` has joined the chain."""
        return self._policy.on_draft(self._confidence.estimate(event.draft.probability), view)

    @property
    def looks_up(self) -> bool:
        """Whether the policy has a use for drafts that are looked up."""
        return isinstance(self._policy, AdaptivePolicy)

    def confidence(self, draft: DraftToken) -> float:
        """The chance that `draft` is right where those before it are."""
        if draft.source is Source.LOOKED_UP:
            return draft.probability
        return self._confidence.estimate(draft.probability)

    def survival(self, drafted: Iterable[DraftToken]) -> float:
        """The chance that all of `drafted` are right."""
        return math.prod(map(self.confidence, drafted))

    @property
    def least_survival(self) -> float:
        """What the last draft of a run that was looked up must be reached with.

        A server that does not wait verifies it in a pass that it makes anyway.
        """
        return _LEAST_SURVIVAL_EAGER if self.stance.mode is Mode.LATENCY else _LEAST_SURVIVAL

    def prefers(self, run: Sequence[DraftToken]) -> bool:
        """Whether a run that was looked up is to be taken instead of what the model would draft now."""
        costs = None if self._mode is Mode.OFFLOAD else self._monitor.snapshot()
        return takes_lookup(
            [draft.probability for draft in run], costs, self._monitor.hit_rate, self._parameters.max_ahead
        )

    def on_looked_up(self, position: int, run: Sequence[DraftToken], view: ChainView) -> Decision:
        """`run` has joined the chain from `position` on."""
        assert isinstance(self._policy, AdaptivePolicy), "asked without `looks_up`"
        now_s = self._clock()
        for i, draft in enumerate(run):
            self.trace.drafted(now_s, now_s, position + i, draft)
        return self._policy.on_run([draft.probability for draft in run], view)

    def on_sent(self, sent_s: float, draft: Draft, num_bytes: int, *, awaiting_commit: bool) -> None:
        """A draft frame went out; `awaiting_commit`: another verification was under way before."""
        self._monitor.on_upload(len(draft.tokens), self._clock() - sent_s)
        self.trace.sent(sent_s, draft, num_bytes)
        if draft.verify and not awaiting_commit:
            self._asked = (sent_s, len(draft.tokens))

    def on_commit(
        self, received: ReceivedCommit, outcome: CommitOutcome, view: ChainView, *, is_drafting: bool = True
    ) -> Decision:
        """The target answered; what to do with drafts that were held back meanwhile."""
        commit = received.commit
        self.trace.committed(received.received_s, commit, received.num_bytes)
        self._measure(commit, received.received_s)
        self._confidence.observe(outcome.checked_drafts)
        checked = outcome.checked_drafts
        self._monitor.on_checked(len(checked), sum(draft.accepted for draft in checked))
        self._progress(commit, len(outcome.new_tokens), received.received_s, is_drafting=is_drafting)
        self._policy.on_commit(outcome)
        return self._policy.after_commit(view)

    def on_rewound(self, position: int) -> None:
        """The worker dropped its drafts from `position` on."""
        self.trace.rolled_back(self._clock(), position, 0)

    def _measure(self, commit: Commit, received_s: float) -> None:
        queue_s, step_s = commit.queue_ms / 1e3, commit.step_ms / 1e3
        asked, self._asked = self._asked, None
        if asked is not None and commit.drafted and commit.passes == 1:
            self._monitor.on_verify_round(asked[1], received_s - asked[0], queue_s, step_s)
        else:
            self._monitor.on_server_times(queue_s, step_s)
        self._monitor.on_acceptance(commit.drafted, commit.accepted)

    def _progress(self, commit: Commit, num_tokens: int, received_s: float, *, is_drafting: bool) -> None:
        last_s, self._last_commit_s = self._last_commit_s, received_s
        if last_s is None:
            return
        elapsed_s = received_s - last_s
        self._monitor.on_progress(num_tokens, elapsed_s)
        if self._chooser is not None and last_s >= self._settled_s:
            self._chooser.observe(
                self._arm(is_drafting=is_drafting),
                num_tokens,
                elapsed_s,
                drafted=commit.drafted + commit.resumed,
                acceptance=self._monitor.hit_rate,
            )
        under = replace(self._parameters, patience_ms=self._patience_in_force_ms)
        self._session_parameters.observe(num_tokens, elapsed_s, commit.passes, under)
        if self._session_parameters.parameters != self._parameters:
            self._parameters = self._session_parameters.parameters
            self._policy.retune(self._parameters)

    def _arm(self, *, is_drafting: bool) -> Arm:
        """What the last commit was measured under."""
        if self._in_force.mode is not Mode.LATENCY:
            return Arm.WAIT
        return Arm.OVERLAP if is_drafting else Arm.STREAM
