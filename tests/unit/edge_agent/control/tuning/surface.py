"""Simulated traffic over a cost surface with a known optimum."""

import random
from collections.abc import Callable

from edge_agent.control import PolicyParameters
from edge_agent.control.tuning.search import PAPER_THRESHOLDS, SearchSpace
from edge_agent.control.tuning.tuner import Phase, Tuner

BASE = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.35, max_ahead=16, patience_ms=500, max_window=8
)
SPACE = SearchSpace(BASE)
START = (BASE, SPACE.with_thresholds(*PAPER_THRESHOLDS))
OPTIMUM = SPACE.nearest(PolicyParameters(0.6, 0.15, 10, 120, 8))
LEAST_MS = 20.0

Surface = Callable[[PolicyParameters], float]
"""TPT in ms."""


def bowl(parameters: PolicyParameters) -> float:
    """R1 and R2 act on each other, patience matters little; the start points are 40 to 60 % off."""
    r1, r2, ahead, patience = (
        a - b for a, b in zip(SPACE.to_unit(parameters), SPACE.to_unit(OPTIMUM), strict=True)
    )
    return LEAST_MS * (
        1.0
        + 3.6 * r1**2
        + 2.7 * r2**2
        + 1.5 * r1 * r2
        + 2.4 * ahead**2
        + 1.0 * patience**2
        + 0.7 * max(patience, 0)
    )


class Traffic:
    """Commits of four tokens; their times scatter by `noise` (standard deviation over mean)."""

    def __init__(self, surface: Surface, seed: int = 0, noise: float = 0.0) -> None:
        self.surface = surface
        self.num_tokens = 0
        self._noise = noise
        self._random = random.Random(seed)

    def commit(self, tuner: Tuner, num_tokens: int = 4) -> bool:
        factor = max(0.1, self._random.gauss(1.0, self._noise))
        self.num_tokens += num_tokens
        return tuner.observe(num_tokens, num_tokens * self.surface(tuner.parameters) * factor / 1e3, 1)

    def run_until(self, tuner: Tuner, phase: Phase, max_tokens: int = 10_000) -> None:
        most = self.num_tokens + max_tokens
        while tuner.phase is not phase:
            assert self.num_tokens < most, f"never reached {phase}"
            self.commit(tuner)

    def run(self, tuner: Tuner, num_tokens: int) -> None:
        most = self.num_tokens + num_tokens
        while self.num_tokens < most:
            self.commit(tuner)
