"""What a path between edge and server does to packets. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

__all__ = ["UNSHAPED", "Blackhole", "LinkSpec", "PathSpec"]

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
