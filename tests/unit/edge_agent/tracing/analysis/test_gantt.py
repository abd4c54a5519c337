"""The page that shows a trace."""

from __future__ import annotations

import json
import re
from typing import Any

from edge_agent.tracing import SessionStarted, TraceEvent
from edge_agent.tracing.analysis.gantt import render_html
from edge_agent.tracing.analysis.timeline import reconstruct


def embedded(page: str) -> dict[str, Any]:
    """The data as the browser's script gets them."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_needs_no_network(by_hand: list[TraceEvent]) -> None:
    """No address but XML namespaces, nothing to load, and a policy that forbids it."""
    page = render_html([reconstruct(by_hand)])
    addresses = re.findall(
        r"""(?:https?:)?//[a-z0-9][^\s"'<>]*""", re.sub(r"^\s*// .*$", "", page, flags=re.M)
    )
    assert [a for a in addresses if not a.startswith("http://www.w3.org/")] == []
    assert not re.search(r"<(link|img|iframe|object|embed)\b|\bsrc=|@import|url\((?!#)|\bfetch\(", page)
    assert "default-src 'none'" in page


def test_the_page_holds_what_was_reconstructed(by_hand: list[TraceEvent]) -> None:
    """Bars in milliseconds since the start, with their tokens, and the totals."""
    [session] = embedded(render_html([reconstruct(by_hand)]))["sessions"]
    assert session["bars"][0] == [0, 0, 0, 0.0, 4.0, [[3, 10, 0, 0.9]], 0]
    assert session["bars"][-1] == [3, 0, 5, 91.0, 10.0, [[6, 13, 1, 0.7], [7, 99, 4, None]], 23]
    assert (session["triggers"], session["rollbacks"]) == ([8.0, 61.0], [101.0])
    assert (session["id"], session["mode"], session["roundTrip"]) == ("request-1", "offload", 20.0)
    assert session["totals"]["fates"] == [2, 2, 2, 1]


def test_nothing_in_a_trace_can_leave_the_data() -> None:
    """Text from requests and vocabularies is data to the browser, never markup."""
    evil = "</script><script>alert(1)</script><!--"
    page = render_html([reconstruct([SessionStarted(1, 0.0, evil, 1, evil, evil)])])
    assert "alert(1)<" not in page
    assert embedded(page)["sessions"][0]["id"] == evil


def test_tokens_are_shown_as_text_where_it_is_known(by_hand: list[TraceEvent]) -> None:
    """Each id that occurs is looked up once; without a tokenizer there are only ids."""
    asked: list[int] = []

    def text(token_id: int) -> str:
        asked.append(token_id)
        return f" w{token_id}"

    page = render_html([reconstruct(by_hand)], token_text=text)
    assert embedded(page)["texts"]["99"] == " w99"
    assert sorted(asked) == [10, 11, 12, 13, 14, 15, 16, 99]
    assert embedded(render_html([reconstruct(by_hand)]))["texts"] == {}


def test_a_long_trace_is_cut_and_says_so(by_hand: list[TraceEvent]) -> None:
    """The page stops at its limit and counts what it leaves out; the totals are the whole session's."""
    timeline = reconstruct(by_hand)
    data = embedded(render_html([timeline] * 3, max_cells=12))
    [session] = data["sessions"]
    assert 0 < len(session["bars"]) < len(timeline.bars)
    assert session["barsLeftOut"] == len(timeline.bars) - len(session["bars"])
    assert data["sessionsLeftOut"] == 2
    assert all(bar[3] + bar[4] <= session["end"] for bar in session["bars"])
    assert all(t <= session["end"] for t in session["triggers"] + session["rollbacks"])
    assert session["totals"]["tokens"] == 5


def test_an_empty_trace_makes_a_page() -> None:
    """Without any session the page is still whole."""
    assert embedded(render_html([]))["sessions"] == []
