"""The environment monitor: what drafting, sending and verifying cost now (PipeSD, section 3.2). Pure.

The caller measures, the monitor estimates. Values that cannot be (negative, not finite) are ignored:
part of them come from the server.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from edge_agent.control.estimators import (
    LineEstimator,
    RollingMedian,
    RollingRatio,
    RoundTripEstimator,
    TrimmedMean,
)

__all__ = ["EnvironmentMonitor", "EnvironmentSnapshot", "LinkEstimate", "drifted"]

ROUNDS_AVERAGED: Final = 100
_FIRST_CHECKED: Final = 8
_FIRST_HITS: Final = 5.6
"""As if so many drafts had been checked before the first one, and so many of them had been right."""
_ENOUGH_PINGS: Final = 3
_STALL_S: Final = 10.0
_NEGLIGIBLE_S: Final = 5e-5
"""A cost below this counts as this when changes are judged: 3 us instead of 1 us moves no plan."""


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What the batch scheduler plans with; None: not measured yet."""

    alpha_s: float | None = None
    """Start-up of one upload."""
    beta_s_per_token: float | None = None
    """Sending one more draft token."""
    gamma_s: float | None = None
    """Drafting one token."""


@dataclass(frozen=True, slots=True)
class EnvironmentSnapshot(LinkEstimate):
    """Everything the monitor knows; None: not measured yet."""

    rtt_s: float | None = None
    """Smoothed round trip without the server's work and without the tokens' transmission."""
    rtt_min_s: float | None = None
    rtt_deviation_s: float | None = None
    step_s: float | None = None
    """A target pass."""
    queue_s: float | None = None
    """How long drafts wait for a pass to start."""
    acceptance_rate: float | None = None
    """Share of verified drafts that were kept, over the last 100 rounds."""
    tpt_s: float | None = None
    """From commit to commit, a committed token."""


def drifted(before: LinkEstimate, now: LinkEstimate, factor: float = 0.2) -> bool:
    """Whether alpha, beta or gamma has moved by more than `factor` of its value `before` (section 3.2)."""
    return (
        _moved(before.alpha_s, now.alpha_s, factor)
        or _moved(before.beta_s_per_token, now.beta_s_per_token, factor)
        or _moved(before.gamma_s, now.gamma_s, factor)
    )


def _moved(before: float | None, now: float | None, factor: float) -> bool:
    if before is None or now is None:
        return before is not now
    return abs(now - before) > factor * max(before, _NEGLIGIBLE_S)


class EnvironmentMonitor:
    """One for each link and draft model; sessions share it. All times in seconds."""

    def __init__(self) -> None:
        self._draft_steps = TrimmedMean(size=100)
        self._uploads = LineEstimator()
        self._rounds = LineEstimator()
        self._pings = RollingMedian()
        self._round_trips = RoundTripEstimator()
        self._steps = RollingMedian()
        self._queues = RollingMedian()
        self._progress = RollingRatio()
        self._hits = RollingRatio()
        self.num_checked = 0
        """Drafts of the model whose position has been committed."""
        self._outcomes: deque[tuple[int, int]] = deque(maxlen=ROUNDS_AVERAGED)
        self._num_verified = 0
        self._num_accepted = 0
        self._round_alpha_s: float | None = None

    def on_draft_step(self, elapsed_s: float) -> None:
        """One model call that drafted one token; gamma is the trimmed mean of the last 100."""
        if _possible(elapsed_s):
            self._draft_steps.add(elapsed_s)

    def on_upload(self, num_tokens: int, elapsed_s: float) -> None:
        """The link was busy for `elapsed_s` with a batch: how long the send took, no answer awaited."""
        if _possible(elapsed_s) and num_tokens > 0:
            self._uploads.add(num_tokens, elapsed_s)

    def on_round_trip(self, elapsed_s: float) -> None:
        """A message without drafts was answered at once, such as a ping."""
        if _possible(elapsed_s):
            self._pings.add(elapsed_s)
            self._round_trips.add(elapsed_s)

    def on_verify_round(self, num_tokens_sent: int, elapsed_s: float, queue_s: float, step_s: float) -> None:
        """From sending the frame with the NAV trigger (`num_tokens_sent` drafts) until its commit came.

        `queue_s` and `step_s` are the server's part of it. Leave out rounds that were asked for
        while another was under way: they wait for that one, too. A start-up probe is a round with
        no server part.
        """
        if step_s > 0.0:  # a probe says nothing of the server's work
            self.on_server_times(queue_s, step_s)
        transport_s = elapsed_s - queue_s - step_s
        believable = _possible(queue_s) and _possible(step_s) and _possible(transport_s)
        if not believable or num_tokens_sent < 1:
            return
        line = self._rounds.line
        self._round_trips.add(max(0.0, transport_s - (line.slope_s if line else 0.0) * num_tokens_sent))
        if self._rounds.add(num_tokens_sent, transport_s):
            self._round_alpha_s = self._start_up_s()

    def on_server_times(self, queue_s: float, step_s: float) -> None:
        """What a commit says of its pass."""
        if _possible(queue_s) and _possible(step_s):
            self._queues.add(queue_s)
            self._steps.add(step_s)

    def on_progress(self, num_tokens: int, elapsed_s: float) -> None:
        """A commit of `num_tokens` came `elapsed_s` after the one before; a stall says nothing of a token."""
        if 0.0 <= elapsed_s <= _STALL_S and num_tokens > 0:
            self._progress.add(elapsed_s, num_tokens)

    def on_acceptance(self, num_verified: int, num_accepted: int) -> None:
        """A round's outcome; one that verified nothing does not count."""
        if not 0 <= num_accepted <= num_verified or num_verified == 0:
            return
        if len(self._outcomes) == ROUNDS_AVERAGED:
            verified, accepted = self._outcomes[0]
            self._num_verified -= verified
            self._num_accepted -= accepted
        self._outcomes.append((num_verified, num_accepted))
        self._num_verified += num_verified
        self._num_accepted += num_accepted

    def on_checked(self, num_checked: int, num_right: int) -> None:
        """Drafts whose position has been committed, up to the first wrong one of each chain."""
        if num_checked:
            self.num_checked += num_checked
            self._hits.add(num_right, num_checked)

    @property
    def step_s(self) -> float | None:
        """A target pass; None: not measured yet."""
        return self._steps.value

    @property
    def hit_rate(self) -> float:
        """Share of drafts that were right where all before them were.

        Begins as if some had been checked: the first few of an answer say little.
        """
        right, checked = self._hits.sums
        return (right + _FIRST_HITS) / (checked + _FIRST_CHECKED)

    def link(self) -> LinkEstimate:
        """What the batch scheduler needs of `snapshot`."""
        alpha_s, beta_s = self._link_costs()
        return LinkEstimate(alpha_s, beta_s, self._draft_steps.value)

    def snapshot(self) -> EnvironmentSnapshot:
        """All estimates as they are now."""
        alpha_s, beta_s = self._link_costs()
        return EnvironmentSnapshot(
            alpha_s=alpha_s,
            beta_s_per_token=beta_s,
            gamma_s=self._draft_steps.value,
            rtt_s=self._round_trips.smoothed_s,
            rtt_min_s=self._round_trips.min_s,
            rtt_deviation_s=self._round_trips.deviation_s,
            step_s=self._steps.value,
            queue_s=self._queues.value,
            acceptance_rate=self._num_accepted / self._num_verified if self._num_verified else None,
            tpt_s=self._progress.value,
        )

    def _link_costs(self) -> tuple[float | None, float | None]:
        """(alpha, beta). Timed sends miss what the kernel buffers, rounds miss what pings pay as well;
        neither invents a cost: the larger is the better estimate."""
        sends, rounds = self._uploads.line, self._rounds.line
        if sends is None or rounds is None:
            line = sends or rounds
            alpha_s = sends.intercept_s if sends else self._round_alpha_s
            return alpha_s, line.slope_s if line else None
        return max(sends.intercept_s, self._round_alpha_s or 0.0), max(sends.slope_s, rounds.slope_s)

    def _start_up_s(self) -> float | None:
        """What an upload takes beyond an empty round trip; without pings, beyond the fastest round."""
        line, ping_s = self._rounds.line, self._pings.value
        if line is None:
            return None
        if ping_s is None or len(self._pings) < _ENOUGH_PINGS:
            ping_s = min(elapsed_s - line.slope_s * size for size, elapsed_s in self._rounds.samples)
        return max(0.0, line.intercept_s - ping_s)


def _possible(elapsed_s: float) -> bool:
    return 0.0 <= elapsed_s < math.inf
