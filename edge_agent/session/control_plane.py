"""The control plane of one agent: monitor, batch scheduler, parameters and trace that its sessions share."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.control.batch_schedule import BatchScheduler
from edge_agent.control.confidence import CalibratedConfidence, RawConfidence
from edge_agent.control.monitor import EnvironmentMonitor, EnvironmentSnapshot
from edge_agent.control.parameter_sources import ParameterSources
from edge_agent.control.policies.registry import make_policy
from edge_agent.session.control import SessionControl
from edge_agent.tracing.recorder import TraceRecorder
from edge_agent.tracing.session_trace import SessionTrace
from pipesd_vllm.wire import Mode


class ControlPlane:
    """Hands each session its controls."""

    def __init__(
        self, sources: ParameterSources, recorder: TraceRecorder, clock: Callable[[], float]
    ) -> None:
        self.monitor = EnvironmentMonitor()
        self._scheduler = BatchScheduler(self.monitor.link)
        self._sources = sources
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
        source = self._sources.source(policy, mode, self.monitor.snapshot())
        # Where passes are to be saved, drafting on has no point at which it costs more than it saves.
        costs = EnvironmentSnapshot if mode is Mode.OFFLOAD else self.monitor.snapshot
        chosen = make_policy(policy, source.parameters, self._scheduler, eager_server=eager, costs=costs)
        trace = SessionTrace(self._recorder)
        trace.started(self._clock(), request_id, prompt_len, policy=policy, mode=str(mode))
        confidence = self._sampled_confidence if sampled else RawConfidence()
        return SessionControl(chosen, source, self.monitor, trace, self._clock, confidence)

    def close(self) -> None:
        """Write what the trace still holds and what was tuned. Idempotent."""
        self._recorder.close()
        self._sources.close()
