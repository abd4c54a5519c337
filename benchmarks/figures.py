"""From timed generations to the figures that are reported. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

from edge_agent.generation import GenerationStats

__all__ = ["DraftFigures", "Figures", "Sample", "Way", "draft_figures", "interleaved", "summarise"]


class Way(enum.StrEnum):
    """The ways to make an answer that are compared."""

    COLLABORATIVE = "collaborative"
    """Through the gateway: drafted here, committed by the target."""
    CLOUD = "cloud"
    """Plain streaming from the same server."""
    LOCAL = "local"
    """The draft model alone."""


@dataclass(frozen=True, slots=True)
class DraftFigures:
    """What drafting cost and gained; None where nothing was drafted or verified."""

    acceptance_rate: float | None = None
    target_passes_per_token: float | None = None
    uplink_bytes_per_draft_token: float | None = None
    """Draft frames only, WebSocket headers included."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One generation as its reader saw it. `tpt_ms` is total time over generated tokens."""

    tpt_ms: float
    ttft_ms: float
    draft: DraftFigures = DraftFigures()


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over samples; `tpt_range_ms` is (least, most)."""

    num_samples: int
    tpt_ms: float
    tpt_range_ms: tuple[float, float]
    ttft_ms: float
    draft: DraftFigures

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, first token included."""
        return 1e3 / self.tpt_ms


def draft_figures(stats: GenerationStats) -> DraftFigures:
    """The figures that only the edge agent knows."""
    num_sent = stats.draft_tokens_sent
    return DraftFigures(
        acceptance_rate=stats.acceptance_rate,
        target_passes_per_token=stats.passes_per_token,
        uplink_bytes_per_draft_token=stats.uplink_draft_bytes / num_sent if num_sent else None,
    )


def summarise(samples: Sequence[Sample]) -> Figures:
    """Medians of `samples`, of which there is at least one."""
    tpt_ms = [sample.tpt_ms for sample in samples]
    drafts = [sample.draft for sample in samples]
    return Figures(
        num_samples=len(samples),
        tpt_ms=median(tpt_ms),
        tpt_range_ms=(min(tpt_ms), max(tpt_ms)),
        ttft_ms=median(sample.ttft_ms for sample in samples),
        draft=DraftFigures(
            _median([draft.acceptance_rate for draft in drafts]),
            _median([draft.target_passes_per_token for draft in drafts]),
            _median([draft.uplink_bytes_per_draft_token for draft in drafts]),
        ),
    )


def interleaved(
    num_prompts: int, repeats: int, ways: Sequence[Way] = tuple(Way)
) -> Iterator[tuple[int, Way]]:
    """`(prompt index, way)` in the order to measure in: all ways of a prompt one after the other.

    The way that comes first changes with prompt and repeat, so that slow drift of the machine and warm
    caches favour none.
    """
    for repeat, prompt in product(range(repeats), range(num_prompts)):
        first = (repeat + prompt) % len(ways)
        for way in (*ways[first:], *ways[:first]):
            yield prompt, way


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
