"""The verification budget: how many drafts the next step verifies, and whose. Pure.

A draft is worth its *survival*, the chance that it and those before it are right, over its session's tokens a
pass (proportional fairness); it costs what another row makes the step longer. The drafts of all sessions are
taken by falling worth while that raises what the step yields a second, so a chain is always cut at its end.
Where a row costs nothing all drafts go in, and where each request pays more for it than it brings, none.
Requests without drafts are not made to pay: beside them a step takes no longer than if sessions drafted none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, takewhile
from operator import mul
from typing import Final, NamedTuple

__all__ = ["Allotment", "Claim", "DraftRecord", "StepCosts", "allot"]

_UNTOLD: Final = 0.8
"""Confidence of drafts of which their edge says nothing."""
_SUREST: Final = 0.99
_PRIOR: Final = 4.0
"""Drafts, or passes, that what is assumed of a session counts as."""
_FADING: Final = 0.99
"""A pass: what was learnt of a session counts so much less after it."""
_FEW: Final = 0.5
"""Drafts, older ones fading, of a session that counts as having none."""
_LEAST_SURVIVAL: Final = 0.01
"""Drafts less likely to be right are not verified at any load."""
_MARGIN: Final = 16
"""Rows over which the price of a further one is averaged: CUDA graphs come in sizes."""


class DraftRecord:
    """What a session's drafts were worth so far; older passes count less.

    An edge's confidences are corrected by how many of its drafts were right, so that one which overrates its
    drafts is believed no longer. Where a session tells little, the record of its tenant counts. Both fade
    in passes without drafts, too: who is told to send none, as his were worth nothing, is tried again later.
    """

    def __init__(self, tenants: DraftRecord | None = None) -> None:
        """`tenants`: the record of all sessions of its tenant, which learns what this one does."""
        self._tenants = tenants
        self._accepted = self._told = self._checked = 0.0
        self._tokens = self._passes = 0.0

    def observe(self, confidences: Sequence[int | None], num_accepted: int, num_tokens: int) -> None:
        """A pass verified drafts of these confidences (bytes of the wire) and committed `num_tokens`."""
        if self._tenants is not None:
            self._tenants.observe(confidences, num_accepted, num_tokens)
        checked = confidences[: num_accepted + 1]
        self._accepted = self._accepted * _FADING + num_accepted
        self._told = self._told * _FADING + sum(map(_probability, checked))
        self._checked = self._checked * _FADING + len(checked)
        self._tokens = self._tokens * _FADING + num_tokens
        self._passes = self._passes * _FADING + 1.0

    def survivals(self, confidences: Iterable[int | None]) -> list[float]:
        """Of drafts in a chain; never rising."""
        factor = self.factor
        chances = (min(_SUREST, _probability(told) * factor) for told in confidences)
        return list(accumulate(chances, mul))

    @property
    def factor(self) -> float:
        """What the edge's confidences are to be taken times."""
        assumed = self._tenants.factor if self._tenants is not None else 1.0
        return (self._accepted + assumed * _PRIOR) / (self._told + _PRIOR)

    @property
    def rate(self) -> float:
        """The share of checked drafts that were right, below 1."""
        assumed = self._tenants.rate if self._tenants is not None else _UNTOLD
        return min(_SUREST, (self._accepted + assumed * _PRIOR) / (self._checked + _PRIOR))

    @property
    def streams(self) -> bool:
        """Whether it has had no drafts for long, or never any."""
        return self._checked < _FEW

    @property
    def pace(self) -> float:
        """Tokens a pass."""
        return (self._tokens + _PRIOR) / (self._passes + _PRIOR)

    def cap(self, price: float) -> int | None:
        """About how many drafts of the session are worth more than `price`; None: any number."""
        least = price * self.pace
        if least <= _LEAST_SURVIVAL:
            return None
        if self.rate <= least:
            return 0
        return 1 + int(math.log(least) / math.log(self.rate))


def _probability(told: int | None) -> float:
    return _UNTOLD if told is None else told / 255


class Claim(NamedTuple):
    """Drafts of one session that could be verified: by depth their survivals, which never rise.

    `streams`: the session has none, and had none for long.
    """

    survivals: Sequence[float]
    weight: float = 1.0
    streams: bool = False


class Allotment(NamedTuple):
    """How many drafts of each claim are verified, and what a further one would have to be worth."""

    counts: list[int]
    price: float


def allot(
    claims: Sequence[Claim],
    base_value: float,
    seconds: Callable[[int], float],
    most: int,
    most_s: float = math.inf,
) -> Allotment:
    """The numbers of drafts, `most` in all, with the highest value a second.

    A step without drafts has the value `base_value`, the weights of all requests in it; a draft adds its
    session's weight times its survival. `seconds(n)`: what the step takes with n drafts, `most_s` at most.
    """
    offered = sorted(
        (-claim.weight * survival, depth, number)
        for number, claim in enumerate(claims)
        for depth, survival in enumerate(takewhile(_LEAST_SURVIVAL.__le__, claim.survivals))
    )[: max(0, most)]
    value, num_taken, best = base_value, 0, base_value / seconds(0)
    least = 0.0
    for number, (worth, _, _) in enumerate(offered, 1):
        value -= worth
        step_s = seconds(number)
        if step_s > most_s:
            least = -worth
            break
        if (rate := value / step_s) > best:
            num_taken, best = number, rate
    counts = [0] * len(claims)
    for _, _, number in offered[:num_taken]:
        counts[number] += 1
    price = best * (seconds(num_taken + _MARGIN) - seconds(num_taken)) / _MARGIN
    return Allotment(counts, max(price, least))


class StepCosts:
    """What a decoding step takes by its rows and its context, learnt from steps: never falling in either.

    `base + row * rows + entry * context` follows measured steps by a Kalman filter. What the steps at hand do
    not show, such as what rows cost while their number stays the same, is kept as it was last seen.
    """

    _NOISE: Final = 0.05
    """Standard deviation of a step, as a share of it."""
    _DRIFT: Final = 3e-4
    """That of each part of the costs from step to step, as a share of a step."""
    _LEAST: Final = 16
    """Steps before which nothing is known."""
    _OUTLIER: Final = 4.0
    """Mean deviations; a step further off counts as so far off."""

    def __init__(self, graph_sizes: Sequence[int] = ()) -> None:
        """`graph_sizes`: rows to which a step is padded, ascending; none: it is not, as beyond the last."""
        self._graph_sizes = graph_sizes
        self._costs = [0.0, 0.0, 0.0]
        self._scales = 1.0, 1.0
        """Rows and entries of the first step: the second and third of the costs are those of so many."""
        self._variances: list[list[float]] = []
        self._deviation_s = 0.0
        self._num_steps = 0

    @property
    def is_known(self) -> bool:
        """Whether enough steps were seen."""
        return self._num_steps >= self._LEAST

    def seconds(self, rows: int, context: int) -> float:
        """What a step of `rows` tokens takes that reads `context` KV entries."""
        base_s, rows_s, entries_s = self._costs
        of_rows, of_context = self._features(rows, context)
        return max(1e-9, base_s + max(0.0, rows_s) * of_rows + max(0.0, entries_s) * of_context)

    def observe(self, rows: int, context: int, seconds: float) -> None:
        """A step took `seconds`."""
        if seconds <= 0.0:
            return
        if not self._num_steps:
            self._costs[0] = seconds
            self._scales = float(self._padded(rows)), max(1.0, context)
            self._variances = [[seconds**2 * (i == j) for j in range(3)] for i in range(3)]
            self._deviation_s = seconds
        self._num_steps += 1
        x = (1.0, *self._features(rows, context))
        error_s = seconds - sum(map(mul, self._costs, x))
        limit_s = self._OUTLIER * self._deviation_s
        self._deviation_s += 0.05 * (min(abs(error_s), 2.0 * limit_s) - self._deviation_s)
        error_s = min(max(error_s, -limit_s), limit_s)
        along = [sum(map(mul, row, x)) for row in self._variances]
        spread = (self._NOISE * seconds) ** 2 + sum(map(mul, along, x))
        for i in range(3):
            self._costs[i] += along[i] / spread * error_s
            for j in range(3):
                self._variances[i][j] -= along[i] * along[j] / spread
            self._variances[i][i] += (self._DRIFT * seconds) ** 2

    def _features(self, rows: int, context: int) -> tuple[float, float]:
        of_rows, of_context = self._scales
        return self._padded(rows) / of_rows, context / of_context

    def _padded(self, rows: int) -> int:
        place = bisect_left(self._graph_sizes, rows)
        return self._graph_sizes[place] if place < len(self._graph_sizes) else rows
