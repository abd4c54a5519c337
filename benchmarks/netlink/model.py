"""What a link does to packets, and when one arrives. Pure: clock and randomness passed in."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

__all__ = ["UNSHAPED", "Blackhole", "LinkCounts", "LinkModel", "LinkSpec", "PathSpec", "sent_by_s"]

_NonNegative = Annotated[float, msgspec.Meta(ge=0.0)]
_Positive = Annotated[float, msgspec.Meta(gt=0.0)]


class Blackhole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything sent in `[start_s, start_s + duration_s)` is lost, silently."""

    start_s: _NonNegative
    duration_s: _Positive


class LinkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One direction. The rate is `mbit`, or changes through `mbit_trace` over and over; none: endless.

    Rates are 10^6 bits of IP packets a second. Jitter is uniform in `[0, jitter_ms]` on top of the
    delay and never reorders. A packet that finds more than `queue_kb` (10^3 bytes) waiting is dropped.
    """

    delay_ms: _NonNegative = 0.0
    """One way."""
    jitter_ms: _NonNegative = 0.0
    mbit: _Positive | None = None
    mbit_trace: tuple[_Positive, ...] = ()
    trace_step_s: _Positive = 20.0
    queue_kb: _Positive = 1000.0
    loss: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    """Probability of each packet, independently."""
    blackholes: tuple[Blackhole, ...] = ()

    def __post_init__(self) -> None:
        if self.mbit is not None and self.mbit_trace:
            raise ValueError("give mbit or mbit_trace, not both")


class PathSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both directions, as the edge sees them."""

    up: LinkSpec
    down: LinkSpec

    @property
    def rtt_ms(self) -> float:
        """Of an empty path, jitter left out."""
        return self.up.delay_ms + self.down.delay_ms


UNSHAPED: Final = PathSpec(LinkSpec(), LinkSpec())
"""A path that only carries."""


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """What one direction carried; `num_bytes` of the packets that were offered to it."""

    num_packets: int = 0
    num_bytes: int = 0
    num_dropped: int = 0


class LinkModel:
    """One direction: a queue with a limit, a transmitter with a rate, a wire with delay and loss.

    Times are seconds since the link began; calls come in the order of time.
    """

    def __init__(self, spec: LinkSpec, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._free_s = 0.0
        self._last_arrival_s = 0.0
        self._queue: deque[tuple[float, int]] = deque()
        self._queued_bytes = 0
        self._num_packets = self._num_bytes = self._num_dropped = 0

    @property
    def counts(self) -> LinkCounts:
        """Since the link began."""
        return LinkCounts(self._num_packets, self._num_bytes, self._num_dropped)

    def offer(self, now_s: float, num_bytes: int) -> float | None:
        """When a packet that is sent now arrives; None if it is lost."""
        self._num_packets += 1
        self._num_bytes += num_bytes
        arrival_s = self._carry(now_s, num_bytes)
        if arrival_s is None:
            self._num_dropped += 1
        return arrival_s

    def _carry(self, now_s: float, num_bytes: int) -> float | None:
        spec = self._spec
        while self._queue and self._queue[0][0] <= now_s:
            self._queued_bytes -= self._queue.popleft()[1]
        if self._queued_bytes + num_bytes > spec.queue_kb * 1e3 and self._queue:
            return None
        self._free_s = sent_by_s(spec, max(now_s, self._free_s), num_bytes)
        self._queue.append((self._free_s, num_bytes))
        self._queued_bytes += num_bytes
        # Both are drawn for every packet: what one is lost by does not move the others' luck.
        lost = self._rng.random() < spec.loss
        jitter_s = self._rng.random() * spec.jitter_ms / 1e3
        if lost or any(h.start_s <= now_s < h.start_s + h.duration_s for h in spec.blackholes):
            return None
        arrival_s = self._free_s + spec.delay_ms / 1e3 + jitter_s
        self._last_arrival_s = max(self._last_arrival_s, arrival_s)
        return self._last_arrival_s


def sent_by_s(spec: LinkSpec, start_s: float, num_bytes: int) -> float:
    """When the last bit of a packet whose transmission starts at `start_s` has left."""
    bits = num_bytes * 8.0
    if not spec.mbit_trace:
        return start_s + bits / (spec.mbit * 1e6) if spec.mbit is not None else start_s
    step = math.floor(start_s / spec.trace_step_s)
    while True:
        rate = spec.mbit_trace[step % len(spec.mbit_trace)] * 1e6
        end_s = (step + 1) * spec.trace_step_s
        if start_s + bits / rate <= end_s:
            return start_s + bits / rate
        bits -= max(0.0, end_s - start_s) * rate
        start_s, step = end_s, step + 1
