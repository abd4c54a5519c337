"""Runs the model: one rival, any number of edges on one server. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import msgspec

from benchmarks.harness.rivals import CLOUD, DEFAULT_PARAMETERS, LOCAL, Rival, Wire, rival_parameters
from benchmarks.netlink.model import LinkModel, LinkSpec, PathSpec
from benchmarks.simulation.agreement import TracePoint
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.edge import EdgeLink, SimulatedEdge
from benchmarks.simulation.events import Events
from benchmarks.simulation.server import SimulatedServer
from benchmarks.wire.padded import PUBLISHED_TOKEN_BYTES
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.control.policies.registry import Task
from edge_agent.session.control import ControlPlane, SessionControl
from edge_agent.tracing import NullRecorder
from pipesd_vllm.wire import Mode

__all__ = ["Outcome", "simulate", "simulate_all"]

_PROBE_TOKENS: Final = range(1, 9)
_NO_LIMIT_KB: Final = 1e9  # TCP holds back what would be too much


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of all edges together: medians of TPT, totals for the rest."""

    tpt_ms: float
    target_passes_per_token: float
    engine_busy_share: float
    """Of the time until the last edge is done."""


def simulate(
    rival: Rival,
    traces: Sequence[Sequence[TracePoint]],
    costs: Costs,
    path: PathSpec,
    *,
    task: Task = "code",
    ours: PolicyParameters = DEFAULT_PARAMETERS,
    seed: int = 0,
    spread_s: float = 0.0,
) -> Outcome:
    """One edge for each trace; they start within `spread_s` of each other and share the server alone."""
    if rival.policy == LOCAL:
        return Outcome(costs.gamma_s * 1e3, 0.0, 0.0)
    rng = random.Random(seed)
    events = Events()
    server = SimulatedServer(events, costs)
    edges: list[SimulatedEdge] = []

    def enter(number: int, trace: Sequence[TracePoint], link: EdgeLink) -> None:
        control = _control(rival, costs, path, events, rival_parameters(rival.policy, ours, task))
        mode = rival.mode or Mode.LATENCY
        published = rival.wire is Wire.PUBLISHED
        edge = SimulatedEdge(number, trace, costs.gamma_s, link, server, control, mode, published=published)
        edges.append(edge)
        edge.start()

    for number, trace in enumerate(traces):
        up, down = (LinkModel(_unlimited(s), random.Random(rng.random())) for s in (path.up, path.down))
        link = EdgeLink(events, up, down, costs.front_s)
        # Bound now: the loop goes on before the edge starts.
        events.at(rng.random() * spread_s, lambda n=number, t=trace, li=link: enter(n, t, li))  # type: ignore[misc]
    events.run()
    return _outcome(edges, traces, server, events)


def simulate_all(
    rival: Rival,
    traces: Sequence[Sequence[TracePoint]],
    costs: Costs,
    path: PathSpec,
    *,
    task: Task = "code",
    ours: PolicyParameters = DEFAULT_PARAMETERS,
) -> Outcome:
    """The traces one after the other, one edge at a time: what the testbed does."""
    outcomes = [
        simulate(rival, [trace], costs, path, task=task, ours=ours, seed=i) for i, trace in enumerate(traces)
    ]
    num_tokens = [len(trace) for trace in traces]

    def mean(values: Sequence[float]) -> float:
        return sum(v * n for v, n in zip(values, num_tokens, strict=True)) / sum(num_tokens)

    return Outcome(
        mean([o.tpt_ms for o in outcomes]),
        mean([o.target_passes_per_token for o in outcomes]),
        mean([o.engine_busy_share for o in outcomes]),
    )


def _control(
    rival: Rival, costs: Costs, path: PathSpec, events: Events, parameters: PolicyParameters
) -> SessionControl | None:
    """The agent's own controls, with a link that has been probed; None for plain streaming."""
    if rival.policy == CLOUD:
        return None
    plane = ControlPlane(FixedParameters(parameters), NullRecorder(), events.clock)
    token_bytes = PUBLISHED_TOKEN_BYTES if rival.wire is Wire.PUBLISHED else 3
    rtt_s = path.rtt_ms / 1e3 + costs.front_s
    plane.monitor.on_round_trip(rtt_s)
    for num_tokens in _PROBE_TOKENS:
        sending_s = num_tokens * token_bytes * 8 / (path.up.mbit * 1e6) if path.up.mbit else 0.0
        plane.monitor.on_verify_round(num_tokens, rtt_s + sending_s, 0.0, 0.0)
        plane.monitor.on_draft_step(costs.gamma_s)
    return plane.start_session("simulated", 1, rival.policy, rival.mode or Mode.BALANCED)


def _outcome(
    edges: Sequence[SimulatedEdge],
    traces: Sequence[Sequence[TracePoint]],
    server: SimulatedServer,
    events: Events,
) -> Outcome:
    times_s = [edge.finished_s - edge.started_s for edge in edges]
    lengths = [len(edge.trace) for edge in edges]
    num_tokens = sum(map(len, traces))
    return Outcome(
        median(time_s * 1e3 / length for time_s, length in zip(times_s, lengths, strict=True)),
        sum(edge.num_passes for edge in edges) / num_tokens,
        server.busy_s / max(edge.finished_s for edge in edges),
    )


def _unlimited(spec: LinkSpec) -> LinkSpec:
    return msgspec.structs.replace(spec, queue_kb=_NO_LIMIT_KB)
