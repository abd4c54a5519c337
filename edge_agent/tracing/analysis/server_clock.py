"""Where the server's work belongs on the edge's clock, from the durations that a `Commit` carries. Pure.

One estimate a session stands for the clock offset and the link: the round trip is the least of
(commit received - asked for - queue - step), half of it each way. A request that found the server busy, a
long prefill or a frame that the network held back only make such a sample longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_agent.tracing.analysis.history import Answer

__all__ = ["Pass", "place_passes", "round_trip_s"]


@dataclass(frozen=True, slots=True)
class Pass:
    """The last target pass behind `answer`: drafts waited from `queued_s` to `start_s`."""

    answer: Answer
    queued_s: float
    start_s: float
    end_s: float


def round_trip_s(answers: Iterable[Answer]) -> float:
    """The session's least round trip; 0 if nothing was ever answered."""
    samples_s = [
        answer.event.t - answer.asked_s - (answer.event.queue_ms + answer.event.step_ms) / 1e3
        for answer in answers
        if answer.asked_s is not None
    ]
    return max(0.0, min(samples_s, default=0.0))


def place_passes(answers: Sequence[Answer], round_trip: float) -> list[Pass]:
    """The passes in order, none overlapping; each as late as its frame and the next pass allow.

    `round_trip` in seconds. Frames that arrive in one burst so get their passes side by side.
    """
    placed: list[Pass] = []
    latest_s = float("inf")
    for answer in reversed(answers):
        event = answer.event
        if not event.passes:
            continue
        end_s = min(event.t - round_trip / 2, latest_s)
        start_s = end_s - max(0.0, event.step_ms) / 1e3
        placed.append(Pass(answer, start_s - max(0.0, event.queue_ms) / 1e3, start_s, end_s))
        latest_s = start_s
    return _cut_queues(placed[::-1])


def _cut_queues(passes: list[Pass]) -> list[Pass]:
    """Waiting begins no earlier than the pass before ends."""
    cut, reached_s = [], float("-inf")
    for placed in passes:
        queued_s = min(max(placed.queued_s, reached_s), placed.start_s)
        cut.append(Pass(placed.answer, queued_s, placed.start_s, placed.end_s))
        reached_s = placed.end_s
    return cut
