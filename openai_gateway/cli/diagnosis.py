"""From measured figures to the mode that `pipesd doctor` recommends. Pure.

Model of a round of K drafts, each accepted with probability a, in ms: draft d a token, target pass s, round
trip r (each verdict says these figures):

    tokens(K) = 1 + a + ... + a^K                            committed by one pass
    round(K)  = a^K max(K d, r + s) + (1 - a^K)(K d + r + s)  after a rejection nothing overlaps
    offload   = min over K of round(K) / tokens(K)            the server waits for every draft
    balanced  = min(offload, patience + s)                    ... but no longer than its patience
    latency   = min(offload, plain)                           ... or not at all
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["FORMULA", "Figures", "Verdict", "diagnose", "expected_tpt_ms"]

FORMULA: Final = (
    "offload = min over K of [a^K max(K d, r+s) + (1-a^K)(K d + r + s)] / (1 + a + ... + a^K); "
    "balanced = min(offload, patience + s); latency = min(offload, plain); "
    "d draft, s pass, r round trip, a acceptance"
)
_WORTHWHILE: Final = 0.95
"""Speculation that saves less than 5 % is called none: the model above is no better than that."""
_PREFERENCE: Final = ("balanced", "offload", "latency")
"""Among modes that are as fast: the bounded wait first, then the fewest passes."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. Times in ms, rates in Mbit/s."""

    draft_ms: float
    """One drafted token."""
    plain_ms: float
    """A token of the server's own stream, without drafts."""
    step_ms: float
    """One target pass that verifies drafts."""
    rtt_ms: float
    acceptance: float
    """Share of verified drafts that were kept, in [0, 1]."""
    patience_ms: float = 500.0
    max_window: int = 8
    uplink_mbit_s: float | None = None
    downlink_mbit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Expected total time per token by mode, and what to do."""

    expected_tpt_ms: Mapping[str, float]
    """`plain` and the three modes."""
    window: int
    """The K that is best for `offload`."""
    mode: str
    helps: bool
    reason: str


def tokens_per_round(acceptance: float, window: int) -> float:
    """Expected tokens that one pass over `window` drafts commits, its own included."""
    return float(sum(acceptance**power for power in range(window + 1)))


def _round_ms(figures: Figures, window: int) -> float:
    drafting_ms, answer_ms = window * figures.draft_ms, figures.rtt_ms + figures.step_ms
    all_kept = figures.acceptance**window
    return all_kept * max(drafting_ms, answer_ms) + (1 - all_kept) * (drafting_ms + answer_ms)


def expected_tpt_ms(figures: Figures) -> tuple[float, int]:
    """Time per token of mode `offload` with its best window, and that window."""
    return min(
        (_round_ms(figures, window) / tokens_per_round(figures.acceptance, window), window)
        for window in range(1, figures.max_window + 1)
    )


def diagnose(figures: Figures) -> Verdict:
    """The verdict on `figures`."""
    offload_ms, window = expected_tpt_ms(figures)
    expected = {
        "plain": figures.plain_ms,
        "offload": offload_ms,
        "balanced": min(offload_ms, figures.patience_ms + figures.step_ms),
        "latency": min(offload_ms, figures.plain_ms),
    }
    helps = offload_ms < _WORTHWHILE * figures.plain_ms
    fastest_ms = min(expected[mode] for mode in _PREFERENCE)
    mode = next(mode for mode in _PREFERENCE if expected[mode] * _WORTHWHILE <= fastest_ms)
    reason = _why(figures, offload_ms, window) if helps else _why_not(figures, offload_ms)
    return Verdict(expected, window, mode, helps, reason)


def _why(figures: Figures, offload_ms: float, window: int) -> str:
    tokens = tokens_per_round(figures.acceptance, window)
    return (
        f"a pass commits {tokens:.1f} tokens with {window} drafts, so a token takes {offload_ms:.1f} ms "
        f"instead of the server's own {figures.plain_ms:.1f} ms"
    )


def _why_not(figures: Figures, offload_ms: float) -> str:
    """Names the figure that, made ideal, would help most."""
    causes = {
        f"drafting a token takes {figures.draft_ms:.1f} ms; try a smaller draft or more --draft-threads": (
            replace(figures, draft_ms=0.0)
        ),
        f"the round trip of {figures.rtt_ms:.1f} ms outweighs what a pass commits; try a nearer server": (
            replace(figures, rtt_ms=0.0)
        ),
        f"only {figures.acceptance:.0%} of the drafts are kept; try a draft closer to the target": (
            replace(figures, acceptance=1.0)
        ),
        f"a verifying pass takes {figures.step_ms:.1f} ms; the server is busy or its batches are slow": (
            replace(figures, step_ms=min(figures.step_ms, figures.plain_ms))
        ),
    }
    cause = min(causes, key=lambda text: expected_tpt_ms(causes[text])[0])
    return (
        f"speculation would not help here ({offload_ms:.1f} ms a token, the server alone "
        f"{figures.plain_ms:.1f} ms), because {cause}"
    )
