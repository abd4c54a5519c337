"""The figures of a trace: what was generated and where the time went. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from edge_agent.tracing.analysis.replay import Fate
from edge_agent.tracing.analysis.timeline import Interval, Kind, Timeline

__all__ = ["ACTIVITY_NAMES", "Activity", "Spent", "Totals", "combine", "covered_s", "totals"]


class Activity(enum.StrEnum):
    """What takes time. All but `WAITING` may happen at once."""

    DRAFTING = "drafting"
    UPLINK = "uplink"
    QUEUE = "queue"
    STEP = "step"
    DOWNLINK = "downlink"
    WAITING = "waiting"
    """The edge drafts nothing while it waits for the target's answer."""


ACTIVITY_NAMES: Final[Mapping[Activity, str]] = {
    Activity.DRAFTING: "edge drafting",
    Activity.UPLINK: "uplink",
    Activity.QUEUE: "server queue",
    Activity.STEP: "target step",
    Activity.DOWNLINK: "downlink",
    Activity.WAITING: "edge waiting",
}

_ACTIVITY: Final[Mapping[Kind, Activity]] = {
    Kind.DRAFT: Activity.DRAFTING,
    Kind.OPEN: Activity.UPLINK,
    Kind.UPLOAD: Activity.UPLINK,
    Kind.QUEUE: Activity.QUEUE,
    Kind.STEP: Activity.STEP,
    Kind.COMMIT: Activity.DOWNLINK,
}


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds in which an activity went on, and of those the ones in which no other hid it."""

    busy_s: float = 0.0
    alone_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of one session or several. `wall_s`: first event to last; `token_s`: to the last token."""

    num_sessions: int
    num_tokens: int
    num_rounds: int
    """Answers to drafts."""
    num_passes: int
    num_verified: int
    num_accepted: int
    wall_s: float
    token_s: float
    fates: Mapping[Fate, int]
    """Drafts by what became of them."""
    spent: Mapping[Activity, Spent]

    @property
    def tpt_ms(self) -> float | None:
        """Total time over generated tokens (the paper's TPT)."""
        return self.token_s * 1e3 / self.num_tokens if self.num_tokens else None

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over verified draft tokens."""
        return self.num_accepted / self.num_verified if self.num_verified else None

    @property
    def passes_per_token(self) -> float | None:
        return self.num_passes / self.num_tokens if self.num_tokens else None

    @property
    def edge_idle(self) -> float | None:
        """Share of the time in which the draft model did nothing for these sessions."""
        return self._idle(Activity.DRAFTING)

    @property
    def server_idle(self) -> float | None:
        """Share of the time in which no target pass ran for these sessions."""
        return self._idle(Activity.STEP)

    def _idle(self, activity: Activity) -> float | None:
        return max(0.0, 1 - self.spent[activity].busy_s / self.wall_s) if self.wall_s else None


def totals(timeline: Timeline) -> Totals:
    """One session's figures."""
    events = [answer.event for answer in timeline.answers]
    last_s = max((answer.event.t for answer in timeline.answers if answer.tokens), default=timeline.start_s)
    drafts = [bar.tokens[0] for bar in timeline.bars if bar.kind is Kind.DRAFT]
    return Totals(
        num_sessions=1,
        num_tokens=sum(len(answer.tokens) for answer in timeline.answers),
        num_rounds=sum(event.num_verified > 0 for event in events),
        num_passes=sum(event.passes for event in events),
        num_verified=sum(event.num_verified for event in events),
        num_accepted=sum(event.num_accepted for event in events),
        wall_s=timeline.end_s - timeline.start_s,
        token_s=max(0.0, last_s - timeline.start_s),
        fates={fate: sum(token.fate is fate for token in drafts) for fate in Fate},
        spent=_spent(timeline),
    )


def combine(several: Iterable[Totals]) -> Totals:
    """Sums over sessions; sessions that ran side by side count one after the other."""
    parts = list(several)
    fates: Counter[Fate] = Counter()
    for part in parts:
        fates.update(part.fates)
    return Totals(
        num_sessions=sum(part.num_sessions for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        num_rounds=sum(part.num_rounds for part in parts),
        num_passes=sum(part.num_passes for part in parts),
        num_verified=sum(part.num_verified for part in parts),
        num_accepted=sum(part.num_accepted for part in parts),
        wall_s=sum(part.wall_s for part in parts),
        token_s=sum(part.token_s for part in parts),
        fates={fate: fates[fate] for fate in Fate},
        spent={activity: _sum(part.spent[activity] for part in parts) for activity in Activity},
    )


def _sum(several: Iterable[Spent]) -> Spent:
    parts = list(several)
    return Spent(sum(part.busy_s for part in parts), sum(part.alone_s for part in parts))


def _spent(timeline: Timeline) -> dict[Activity, Spent]:
    intervals: dict[Activity, list[Interval]] = {activity: [] for activity in Activity}
    for bar in timeline.bars:
        intervals[_ACTIVITY[bar.kind]].append((bar.start_s, bar.end_s))
    everything_s = covered_s(interval for several in intervals.values() for interval in several)
    spent = {}
    for activity, own in intervals.items():
        others = (i for other, several in intervals.items() if other is not activity for i in several)
        spent[activity] = Spent(covered_s(own), everything_s - covered_s(others))
    drafting = intervals[Activity.DRAFTING]
    waiting_s = covered_s([*timeline.waits, *drafting]) - covered_s(drafting)
    spent[Activity.WAITING] = Spent(waiting_s)
    return spent


def covered_s(intervals: Iterable[Interval]) -> float:
    """Seconds that lie in at least one interval."""
    total_s, reached_s = 0.0, float("-inf")
    for start_s, end_s in sorted(intervals):
        total_s += max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s
