"""How a window of drafts is cut into uploads (PipeSD, section 3.2, Theorem 4.1, Algorithm 1). Pure.

Cost model: drafting b tokens takes `gamma * b`, sending them `alpha + beta * b`. A batch may start when
its tokens exist and the batch before it has been sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.control.monitor import LinkEstimate, drifted

__all__ = ["BatchPlan", "BatchScheduler", "plan_batches"]

INITIAL_WINDOW: Final = 20
"""N before the first round, in tokens (section 3.2)."""
ROUNDS_AVERAGED: Final = 100
_TIE: Final = 1e-9
"""Finishing times that differ by less than this share are equal: rounding must not cost a frame."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Batches in order of sending; `finish_s` counts from the window's first draft step."""

    batch_sizes: tuple[int, ...]
    boundaries: tuple[int, ...]
    """Number of drafts in the window after which each batch is sent; the last is the window's length."""
    finish_s: float
    single_batch_s: float
    """Finishing time of one upload after the last draft, for comparison."""

    @property
    def saving_s(self) -> float:
        """What the pipeline gains over one upload at the end."""
        return max(0.0, self.single_batch_s - self.finish_s)


def plan_batches(num_tokens: int, alpha_s: float, beta_s: float, gamma_s: float) -> BatchPlan:
    """The plan that finishes first; of several, one with the fewest batches. O(num_tokens^2).

    `alpha_s`: start-up of an upload, `beta_s`: per token sent, `gamma_s`: per token drafted.
    Raises `ValueError` for an empty window or a cost that is negative or not finite.
    """
    single_batch_s = gamma_s * num_tokens + alpha_s + beta_s * num_tokens
    if num_tokens < 1 or min(alpha_s, beta_s, gamma_s) < 0.0 or not math.isfinite(single_batch_s):
        raise ValueError("a window has at least one token, and no cost is negative or endless")
    finish_s = _least_finish_s(num_tokens, alpha_s, beta_s, gamma_s)
    deadline_s = finish_s * (1.0 + _TIE)
    boundaries = _fewest_boundaries(num_tokens, alpha_s, beta_s, gamma_s, deadline_s)
    sizes = tuple(end - start for start, end in zip((0, *boundaries), boundaries, strict=False))
    return BatchPlan(sizes, boundaries, finish_s, single_batch_s)


def _least_finish_s(num_tokens: int, alpha_s: float, beta_s: float, gamma_s: float) -> float:
    """`dp[j] = min over i<j of max(dp[i], gamma*j) + alpha + beta*(j-i)`, for j = num_tokens.

    dp never falls with j. So of all i with dp[i] <= gamma*j only the largest can be best, and
    for the others the cost is dp[i] - beta*i plus what does not depend on i.
    """
    finish = [0.0]
    relative = [0.0]  # dp[i] - beta * i
    free = 0  # the largest i whose batch is out when draft j exists
    for j in range(1, num_tokens + 1):
        drafted_s = gamma_s * j
        while free + 1 < j and finish[free + 1] <= drafted_s:
            free += 1
        best_s = drafted_s - beta_s * free
        if free + 1 < j:
            behind_s = min(relative[free + 1 :])
            best_s = min(best_s, behind_s)
        finish.append(best_s + alpha_s + beta_s * j)
        relative.append(best_s + alpha_s)
    return finish[-1]


def _fewest_boundaries(
    num_tokens: int, alpha_s: float, beta_s: float, gamma_s: float, deadline_s: float
) -> tuple[int, ...]:
    """Cut the window into as few batches as finish by `deadline_s`, which can be met. O(N).

    Backwards: if m batches follow the first i drafts, these must be out by
    `deadline - m*alpha - beta*(N-i)`, however the m batches are cut. A batch that ends at j starts no
    sooner than j exists; so the earlier the m - 1 batches after it begin, the earlier it can
    begin itself, and taking each batch as long as it may be is best.
    """
    latest_s = deadline_s - beta_s * num_tokens
    boundaries = []
    end = num_tokens
    while end > 0:
        boundaries.append(end)
        latest_s -= alpha_s
        start = end - 1
        while start > 0 and gamma_s * end <= latest_s + beta_s * (start - 1):
            start -= 1
        end = start
    return tuple(reversed(boundaries))


class BatchScheduler:
    """Keeps the plan that fits the link and the usual draft length.

    `link` gives the present costs; it is asked once a window. The plan is made again only when one
    of the costs has moved by more than 20 % since it was made, or N has changed (section 3.2).
    Until all three are measured the window is one batch.
    """

    def __init__(self, link: Callable[[], LinkEstimate], window: int = INITIAL_WINDOW) -> None:
        self.num_plans = 0
        """How often a plan was made."""
        self._link = link
        self._lengths: deque[int] = deque(maxlen=ROUNDS_AVERAGED)
        self._total_length = 0
        self._window = window
        self._replan(link())

    @property
    def window(self) -> int:
        """N, in tokens."""
        return self._window

    @property
    def plan(self) -> BatchPlan:
        return self._plan

    def is_boundary(self, num_drafted: int) -> bool:
        """Whether a batch ends with the window's `num_drafted`-th draft (1 or more).

        A window that outgrows N goes through the plan again.
        """
        return (num_drafted - 1) % self._window + 1 in self._boundaries

    def finish_window(self, num_drafted: int) -> None:
        """A round ended after `num_drafted` drafts; brings N and the plan up to date."""
        if num_drafted > 0:
            self._count(num_drafted)
        window = max(1, round(self._total_length / len(self._lengths))) if self._lengths else self._window
        link = self._link()
        if window != self._window or drifted(self._planned_for, link):
            self._window = window
            self._replan(link)

    def _count(self, num_drafted: int) -> None:
        if len(self._lengths) == ROUNDS_AVERAGED:
            self._total_length -= self._lengths[0]
        self._lengths.append(num_drafted)
        self._total_length += num_drafted

    def _replan(self, link: LinkEstimate) -> None:
        alpha_s, beta_s, gamma_s = link.alpha_s, link.beta_s_per_token, link.gamma_s
        if alpha_s is None or beta_s is None or gamma_s is None:
            alpha_s = beta_s = gamma_s = 0.0
        self._planned_for = link
        self._plan = plan_batches(self._window, alpha_s, beta_s, gamma_s)
        self._boundaries = frozenset(self._plan.boundaries)
        self.num_plans += 1
