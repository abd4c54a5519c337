"""Timelines as one HTML page that needs nothing else: SVG drawn by a small script from embedded JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any, Final

from edge_agent.tracing.analysis.replay import Fate
from edge_agent.tracing.analysis.timeline import Bar, Kind, Lane, Timeline, Token
from edge_agent.tracing.analysis.totals import ACTIVITY_NAMES, Totals, totals

__all__ = ["MAX_CELLS", "render_html"]

MAX_CELLS: Final = 60_000
"""Most bars and tokens in bars on one page, some 2 MB; what comes after them is left out and counted."""

_PLACEHOLDER: Final = "/*TRACE*/null"
_LANES: Final = {lane: i for i, lane in enumerate(Lane)}
_KINDS: Final = {kind: i for i, kind in enumerate(Kind)}
_FATES: Final = {fate: i for i, fate in enumerate([*Fate, None])}

TokenText = Callable[[int], str]


def render_html(
    timelines: Iterable[Timeline], *, token_text: TokenText | None = None, max_cells: int = MAX_CELLS
) -> str:
    """The page. With `token_text` tokens are shown as text, else by their ids."""
    picture = _Picture(max_cells)
    for timeline in timelines:
        picture.add(timeline)
    data = json.dumps(picture.data(token_text), separators=(",", ":"))
    template = files("edge_agent.tracing.analysis").joinpath("gantt.html").read_text(encoding="utf-8")
    # "<" could end the script element or open a comment in it.
    return template.replace(_PLACEHOLDER, data.replace("<", "\\u003c"))


class _Picture:
    """Collects what the script draws, up to `max_cells`."""

    def __init__(self, max_cells: int) -> None:
        self._cells_left = max_cells
        self._sessions: list[dict[str, Any]] = []
        self._num_sessions_left_out = 0
        self._token_ids: set[int] = set()

    def add(self, timeline: Timeline) -> None:
        if self._cells_left <= 0:
            self._num_sessions_left_out += 1
            return
        self._cells_left -= 1
        shown = self._take(timeline.bars)
        self._token_ids.update(token.token_id for bar in shown for token in bar.tokens)
        self._sessions.append(_session(timeline, shown))

    def data(self, token_text: TokenText | None) -> dict[str, Any]:
        """What the script reads."""
        return {
            "sessions": self._sessions,
            "sessionsLeftOut": self._num_sessions_left_out,
            "texts": {i: token_text(i) for i in sorted(self._token_ids)} if token_text else {},
        }

    def _take(self, bars: tuple[Bar, ...]) -> list[Bar]:
        """The first bars that there is room for."""
        shown = []
        for bar in bars:
            cost = 1 + len(bar.tokens)
            if cost > self._cells_left:
                self._cells_left = 0
                break
            self._cells_left -= cost
            shown.append(bar)
        return shown


def _session(timeline: Timeline, shown: list[Bar]) -> dict[str, Any]:
    origin_s = timeline.start_s
    num_left_out = len(timeline.bars) - len(shown)
    end_s = max((bar.end_s for bar in shown), default=origin_s) if num_left_out else timeline.end_s
    return {
        "id": timeline.session.request_id,
        "policy": timeline.session.policy,
        "mode": timeline.session.mode,
        "promptLen": timeline.session.prompt_len,
        "reason": timeline.end_reason,
        "roundTrip": _ms(timeline.round_trip_s),
        "end": _ms(end_s - origin_s),
        "barsLeftOut": num_left_out,
        "bars": [_bar(bar, origin_s) for bar in shown],
        "triggers": [_ms(t - origin_s) for t in timeline.triggers_s if t <= end_s],
        "rollbacks": [_ms(t - origin_s) for t in timeline.rollbacks_s if t <= end_s],
        "totals": _totals(totals(timeline)),
    }


def _bar(bar: Bar, origin_s: float) -> list[object]:
    start, duration = _ms(bar.start_s - origin_s), _ms(bar.end_s - bar.start_s)
    tokens = [_token(token) for token in bar.tokens]
    return [_LANES[bar.lane], bar.track, _KINDS[bar.kind], start, duration, tokens, bar.num_bytes]


def _token(token: Token) -> list[object]:
    probability = None if token.probability is None else round(token.probability, 4)
    return [token.position, token.token_id, _FATES[token.fate], probability]


def _totals(figures: Totals) -> dict[str, Any]:
    return {
        "tokens": figures.num_tokens,
        "rounds": figures.num_rounds,
        "passes": figures.num_passes,
        "tpt": figures.tpt_ms,
        "acceptance": figures.acceptance_rate,
        "passesPerToken": figures.passes_per_token,
        "edgeIdle": figures.edge_idle,
        "serverIdle": figures.server_idle,
        "wall": _ms(figures.wall_s),
        "fates": [figures.fates[fate] for fate in Fate],
        "spent": [
            [name, _ms(figures.spent[activity].busy_s), _ms(figures.spent[activity].alone_s)]
            for activity, name in ACTIVITY_NAMES.items()
        ],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
