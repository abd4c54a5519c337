"""One session as a pipeline: bars in four lanes, all on the edge's monotonic clock. Pure.

A `Commit` carries durations only. One estimate a session, the least of (commit received - asked for - queue
- step), stands for the clock offset and the link: the round trip, half of it each way. A request that found
the server busy, a long prefill or a frame that the network held back only make such a sample longer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from edge_agent.tracing.analysis.replay import Answer, DraftRecord, Fate, History, replay
from edge_agent.tracing.events import Drafted, PromptKnown, SessionEnded, SessionStarted, TraceEvent

__all__ = [
    "Bar",
    "Interval",
    "Kind",
    "Lane",
    "Pass",
    "Timeline",
    "Token",
    "assign_tracks",
    "place_passes",
    "reconstruct",
    "round_trip_s",
    "without_overlaps",
]

Interval = tuple[float, float]
"""`(start_s, end_s)` with `start_s <= end_s`."""


class Lane(enum.StrEnum):
    """Where something happens, in the order of a draft's way."""

    EDGE = "edge"
    UPLINK = "uplink"
    SERVER = "server"
    DOWNLINK = "downlink"


class Kind(enum.StrEnum):
    """What a bar stands for."""

    DRAFT = "draft"
    OPEN = "open"
    """The prompt on its way up."""
    UPLOAD = "upload"
    QUEUE = "queue"
    """Drafts wait on the server for a pass to begin."""
    STEP = "step"
    """A target pass."""
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Token:
    """A token in a bar. The target's own have neither `probability` nor `fate`."""

    position: int
    token_id: int
    probability: float | None = None
    fate: Fate | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that took from `start_s` to `end_s`; bars on one track of a lane do not overlap."""

    lane: Lane
    kind: Kind
    start_s: float
    end_s: float
    tokens: tuple[Token, ...] = ()
    num_bytes: int = 0
    track: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """A session, reconstructed. Bars are in order of their start."""

    session: SessionStarted
    end_s: float
    end_reason: str
    round_trip_s: float
    bars: tuple[Bar, ...]
    triggers_s: tuple[float, ...]
    rollbacks_s: tuple[float, ...]
    waits: tuple[tuple[float, float], ...]
    """From a trigger until nothing was awaited any more."""
    answers: tuple[Answer, ...]

    @property
    def start_s(self) -> float:
        return self.session.t


@dataclass(frozen=True, slots=True)
class Pass:
    """The last target pass behind `answer`: drafts waited from `queued_s` to `start_s`."""

    answer: Answer
    queued_s: float
    start_s: float
    end_s: float


def reconstruct(events: Sequence[TraceEvent]) -> Timeline:
    """Lay out one session's events, given in the order of the file (at least one).

    What is missing (the
    session is still running, lines were lost) is left out.
    """
    history = replay(events)
    session = next((e for e in events if isinstance(e, SessionStarted)), None) or _unknown(events[0])
    for known in (event for event in events if isinstance(event, PromptKnown)):
        session = msgspec.structs.replace(session, prompt_len=known.prompt_len)
    ended = [e for e in events if isinstance(e, SessionEnded)]
    round_trip = round_trip_s(history.answers)
    bars = _bars(history, round_trip)
    return Timeline(
        session=session,
        end_s=max([session.t, *(bar.end_s for bar in bars), *(e.t for e in ended)]),
        end_reason=ended[0].reason if ended else "",
        round_trip_s=round_trip,
        bars=tuple(bars),
        triggers_s=tuple(upload.event.t for upload in history.uploads if upload.event.verify),
        rollbacks_s=tuple(event.t for event in history.rollbacks),
        waits=tuple((start_s, max(start_s, end_s)) for start_s, end_s in history.waits),
        answers=tuple(history.answers),
    )


def _unknown(first: TraceEvent) -> SessionStarted:
    start_s = first.t_start if isinstance(first, Drafted) else first.t
    return SessionStarted(first.session, start_s, f"session {first.session}", 0, "", "")


def _bars(history: History, round_trip: float) -> list[Bar]:
    passes = place_passes(history.answers, round_trip)
    bars = [
        *_edge(history),
        *_uplink(history, round_trip / 2),
        *_server(passes),
        *_downlink(history, passes, round_trip / 2),
    ]
    return sorted(bars, key=lambda bar: (bar.start_s, bar.end_s))


def _token(draft: DraftRecord) -> Token:
    event = draft.event
    return Token(event.position, event.token, event.probability, draft.fate)


def _edge(history: History) -> list[Bar]:
    times = without_overlaps((draft.event.t_start, draft.event.t_end) for draft in history.drafts)
    return [
        Bar(Lane.EDGE, Kind.DRAFT, start_s, end_s, (_token(draft),))
        for draft, (start_s, end_s) in zip(history.drafts, times, strict=True)
    ]


def _uplink(history: History, uplink_s: float) -> list[Bar]:
    bars = [
        Bar(Lane.UPLINK, Kind.OPEN, event.t, event.t + uplink_s, num_bytes=event.num_bytes)
        for event in history.openings
    ]
    for upload in history.uploads:
        event, tokens = upload.event, tuple(map(_token, upload.drafts))
        bars.append(Bar(Lane.UPLINK, Kind.UPLOAD, event.t, event.t + uplink_s, tokens, event.num_bytes))
    return _on_tracks(bars)


def _server(passes: Iterable[Pass]) -> list[Bar]:
    bars = []
    for placed in passes:
        if placed.queued_s < placed.start_s:
            bars.append(Bar(Lane.SERVER, Kind.QUEUE, placed.queued_s, placed.start_s))
        bars.append(Bar(Lane.SERVER, Kind.STEP, placed.start_s, placed.end_s, _checked(placed.answer)))
    return bars


def _downlink(history: History, passes: Sequence[Pass], downlink_s: float) -> list[Bar]:
    left_s = {id(placed.answer): placed.end_s for placed in passes}
    bars = []
    for answer in history.answers:
        event = answer.event
        start_s = left_s.get(id(answer), event.t - downlink_s)
        bars.append(Bar(Lane.DOWNLINK, Kind.COMMIT, start_s, event.t, _answered(answer), event.num_bytes))
    return _on_tracks(bars)


def _answered(answer: Answer) -> tuple[Token, ...]:
    """What was committed: each token as the draft it confirms, or the target's own."""
    return tuple(
        Token(answer.position + i, token) if draft is None else _token(draft)
        for i, (token, draft) in enumerate(zip(answer.tokens, answer.kept, strict=True))
    )


def _checked(answer: Answer) -> tuple[Token, ...]:
    """What a pass decided on: drafts kept, drafts refused, the target's own token."""
    answered = _answered(answer)
    kept = (token for token in answered if token.fate is not None)
    own = (token for token in answered if token.fate is None)
    return (*kept, *map(_token, answer.refused), *own)


def _on_tracks(bars: Sequence[Bar]) -> list[Bar]:
    tracks = assign_tracks([(bar.start_s, bar.end_s) for bar in bars])
    return [replace(bar, track=track) for bar, track in zip(bars, tracks, strict=True)]


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


def assign_tracks(intervals: Sequence[Interval]) -> list[int]:
    """A track for each interval, so that none overlaps another on its track: the lowest that is free."""
    tracks = [0] * len(intervals)
    ends_s: list[float] = []
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i]):
        start_s, end_s = intervals[i]
        track = next((t for t, busy_until_s in enumerate(ends_s) if busy_until_s <= start_s), len(ends_s))
        ends_s[track : track + 1] = [end_s]
        tracks[i] = track
    return tracks


def without_overlaps(intervals: Iterable[Interval]) -> list[Interval]:
    """The same intervals, each cut to begin no earlier than the one before ends."""
    cut: list[Interval] = []
    reached_s = float("-inf")
    for start_s, end_s in intervals:
        begun_s = max(start_s, reached_s)
        reached_s = max(begun_s, end_s)
        cut.append((begun_s, reached_s))
    return cut
