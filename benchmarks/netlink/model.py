"""What a link does to packets, and when one arrives. Pure: clock and randomness passed in."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated, Final

import msgspec

__all__ = ["UNSHAPED", "Carried", "Configure", "LinkModel", "LinkSpec", "Links", "PathSpec"]

_NonNegative = Annotated[float, msgspec.Meta(ge=0.0)]
_Positive = Annotated[float, msgspec.Meta(gt=0.0)]


class LinkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One direction. The rate is `mbit`, or changes through `mbit_trace` over and over; none: endless.

    Rates are 10^6 bits of IP packets a second. A packet that finds more than `queue_kb` (10^3 bytes)
    waiting is dropped.
    """

    delay_ms: _NonNegative = 0.0
    """One way."""
    mbit: _Positive | None = None
    mbit_trace: tuple[_Positive, ...] = ()
    trace_step_s: _Positive = 20.0
    queue_kb: _Positive = 1000.0
    loss: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    """Probability of each packet, independently."""

    def __post_init__(self) -> None:
        if self.mbit is not None and self.mbit_trace:
            raise ValueError("give mbit or mbit_trace, not both")


class PathSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both directions, as the edge sees them."""

    up: LinkSpec
    down: LinkSpec

    @property
    def rtt_ms(self) -> float:
        """Of an empty path."""
        return self.up.delay_ms + self.down.delay_ms


UNSHAPED: Final = PathSpec(LinkSpec(), LinkSpec())
"""A path that only carries."""


class LinkModel:
    """One direction: a queue with a limit, a transmitter with a rate, a wire with delay and loss.

    Times are seconds since the link began; calls come in the order of time.
    """

    def __init__(self, spec: LinkSpec, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._free_s = 0.0
        self._queue: deque[tuple[float, int]] = deque()
        self._queued_bytes = 0
        self.num_bytes = 0
        """Offered since the link began, those lost included."""

    def offer(self, now_s: float, num_bytes: int) -> float | None:
        """When a packet that is sent now arrives; None if it is lost."""
        self.num_bytes += num_bytes
        while self._queue and self._queue[0][0] <= now_s:
            self._queued_bytes -= self._queue.popleft()[1]
        if self._queued_bytes + num_bytes > self._spec.queue_kb * 1e3 and self._queue:
            return None
        self._free_s = self._sent_by_s(max(now_s, self._free_s), num_bytes)
        self._queue.append((self._free_s, num_bytes))
        self._queued_bytes += num_bytes
        return None if self._rng.random() < self._spec.loss else self._free_s + self._spec.delay_ms / 1e3

    def _sent_by_s(self, start_s: float, num_bytes: int) -> float:
        """When the last bit of a packet whose transmission starts at `start_s` has left."""
        spec, bits = self._spec, num_bytes * 8.0
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


class Configure(msgspec.Struct, frozen=True):
    """Start the path anew, `elapsed_s` into its traces. Packets under way are kept."""

    path: PathSpec
    seed: int = 0
    elapsed_s: float = 0.0


class Carried(msgspec.Struct, frozen=True):
    """Bytes since the last `Configure`."""

    up_bytes: int
    down_bytes: int


class Links:
    """Both directions, 0 from the edge and 1 from the server. Times on the caller's clock, in seconds."""

    def __init__(self, now_s: float) -> None:
        self.configure(Configure(UNSHAPED), now_s)

    def configure(self, configure: Configure, now_s: float) -> None:
        """See `Configure`."""
        self._epoch_s = now_s - configure.elapsed_s
        rng, path = random.Random(configure.seed), configure.path
        self._models = [LinkModel(spec, random.Random(rng.random())) for spec in (path.up, path.down)]

    @property
    def carried(self) -> Carried:
        return Carried(*(model.num_bytes for model in self._models))

    def offer(self, direction: int, num_bytes: int, now_s: float) -> float | None:
        """When a packet that is sent now arrives; None if it is lost."""
        arrival_s = self._models[direction].offer(now_s - self._epoch_s, num_bytes)
        return None if arrival_s is None else arrival_s + self._epoch_s
