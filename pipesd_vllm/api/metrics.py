"""Prometheus metrics of the plugin, on vLLM's own `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from pipesd_vllm.scheduling import PassReport
from pipesd_vllm.wire import Commit, Draft

_STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_OVERHEAD_BUCKETS = (2.5e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)


_KEY_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Overhead:
    """Time that the plugin's own code takes of the verify round that ends with one commit, in seconds.

    What is known before the commit is sent; the third part of `pipesd_own_seconds` is the sending itself.
    """

    receive_s: float | None
    """From a draft frame's arrival to its command in vLLM's hands; None: no frame asked for this commit."""
    schedule_s: float
    """In the scheduler's hooks around the pass, for all sessions of the pass together."""
    output_s: float
    """When vLLM handed its output over, on the service's clock."""
    report: PassReport = field(default_factory=PassReport)
    """What the engine said with it."""


class ServerMetrics:
    """Counters of sessions, turns, drafts and passes."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.connections = Gauge(
            "pipesd_connections",
            "Open edge connections.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.open_turns = Gauge(
            "pipesd_open_turns",
            "Turns under way, those that wait for their edge included.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.turns = Counter(
            "pipesd_turns",
            "Turns ended, by reason.",
            ["reason"],
            registry=registry,
        )
        self.passes = Counter(
            "pipesd_target_passes",
            "Target forward passes of sessions.",
            registry=registry,
        )
        self.committed = Counter(
            "pipesd_committed_tokens",
            "Tokens committed to edges.",
            registry=registry,
        )
        self.received = Counter(
            "pipesd_draft_tokens_received",
            "Draft tokens received.",
            registry=registry,
        )
        self.drafted = Counter(
            "pipesd_draft_tokens_verified",
            "Draft tokens checked by the target.",
            registry=registry,
        )
        self.accepted = Counter(
            "pipesd_draft_tokens_accepted",
            "Draft tokens the target agreed with.",
            registry=registry,
        )
        self.step_seconds = Histogram(
            "pipesd_step_seconds",
            "Engine step of a session's pass.",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "pipesd_queue_seconds",
            "Wait of released drafts for their step.",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        overhead = Histogram(
            "pipesd_own_seconds",
            "The plugin's own code in a verify round, by part: receive, schedule, send.",
            ["part"],
            buckets=_OVERHEAD_BUCKETS,
            registry=registry,
        )
        self._receive, self._schedule, self._send = map(overhead.labels, ("receive", "schedule", "send"))
        self.closed = Counter(
            "pipesd_closed_connections",
            "Connections closed by the server, by reason.",
            ["reason"],
            registry=registry,
        )
        self.refused = Counter(
            "pipesd_refused_connections",
            "Connections refused as too many, by reason: server_full, key_full.",
            ["reason"],
            registry=registry,
        )

        self.refused_turns = Counter(
            "pipesd_refused_turns",
            "Turns refused for want of room, by reason: kv_full, key_kv_full, key_turns.",
            ["reason"],
            registry=registry,
        )
        self.throttled = Counter(
            "pipesd_throttled_frames",
            "Frames after which a connection was read no faster.",
            registry=registry,
        )

        self.rejected = Counter(
            "pipesd_rejected_draft_tokens",
            "Draft tokens verified and not kept, by the key's salt in this process (its first 8 digits).",
            ["key"],
            registry=registry,
        )
        self.seats = Gauge(
            "pipesd_seats",
            "Requests that the engine's steps have room for (--max-num-seqs).",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.seats_taken = Gauge(
            "pipesd_seats_taken",
            "Requests that run, and sessions parked with their KV blocks, at the last commit.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.parked = Gauge(
            "pipesd_parked_sessions",
            "Sessions that wait for their edges outside of vLLM's queues, at the last commit.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.step_drafts = Gauge(
            "pipesd_step_draft_tokens",
            "Draft tokens of all sessions that the last step verified: the verification budget in force.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )

    def count_draft(self, draft: Draft) -> None:
        """Count a draft frame that arrived."""
        self.received.inc(len(draft.tokens))

    def count_commit(self, commit: Commit, overhead: Overhead, send_s: float, key: str = "") -> None:
        """Count a commit that was sent, or could not be: its target passes took place either way.

        `send_s` is the time from vLLM's output to the end of the sending; `key` the tenant's name.
        """
        report = overhead.report
        self.seats_taken.set(report.seats_taken)
        self.parked.set(report.parked)
        self.step_drafts.set(report.step_drafts)
        if commit.drafted > commit.accepted:
            self.rejected.labels(key[:_KEY_DIGITS]).inc(commit.drafted - commit.accepted)
        self.passes.inc(commit.passes)
        self.committed.inc(len(commit.tokens))
        self.drafted.inc(commit.drafted)
        self.accepted.inc(commit.accepted)
        self.step_seconds.observe(commit.step_ms / 1e3)
        self.queue_seconds.observe(commit.queue_ms / 1e3)
        if overhead.receive_s is not None:
            self._receive.observe(overhead.receive_s)
        self._schedule.observe(overhead.schedule_s)
        self._send.observe(send_s)
