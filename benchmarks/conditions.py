"""What is emulated around the real parts: the link's delay and the edge's speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Way
from benchmarks.harness.pacing import PacedDrafter
from edge_agent.drafter import Drafter
from edge_agent.settings import EdgeSettings

__all__ = ["QUIET", "Conditions"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """`rtt_s` is added to the link's own; `gamma_s` is the least time a draft takes (endless: hung)."""

    rtt_s: float = 0.0
    gamma_s: float = 0.0

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways that end: a hung edge never answers alone."""
        hung = self.gamma_s == float("inf")
        return tuple(way for way in Way if not (hung and way is Way.LOCAL))

    def load_drafter(self, settings: EdgeSettings) -> Drafter:
        """The draft model of `settings` on such an edge. Raises `ModelError`."""
        from edge_agent.draft_files import load_drafter

        drafter = load_drafter(settings)
        return PacedDrafter(drafter, self.gamma_s) if self.gamma_s else drafter


QUIET: Final = Conditions()
"""Nothing is emulated."""
