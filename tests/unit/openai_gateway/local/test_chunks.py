from __future__ import annotations

import pytest

from edge_agent.api import GenerationStats, Route
from openai_gateway.local.chunks import pipesd_stats, timings, usage


def test_figures_before_the_first_token() -> None:
    """Figures that are not known yet are null, not wrong."""
    figures = pipesd_stats(GenerationStats())
    assert [figures[name] for name in ("ttft_ms", "tpt_ms", "acceptance_rate", "passes_per_token")] == [
        None
    ] * 4


def test_figures() -> None:
    """Times are milliseconds, rates are ratios, counts are counts."""
    stats = GenerationStats(
        route=Route.COLLABORATIVE,
        started_s=1.0,
        first_token_s=1.25,
        last_token_s=2.0,
        completion_tokens=10,
        target_passes=4,
        draft_tokens_sent=12,
        draft_tokens_verified=9,
        draft_tokens_accepted=6,
        uplink_bytes=99,
    )
    assert pipesd_stats(stats) == {
        "route": "collaborative",
        "reason": "default",
        "drafted": True,
        "verified": True,
        "unverified_tokens": 0,
        "ignored": [],
        "seed": None,
        "ttft_ms": 250.0,
        "tpt_ms": 100.0,
        "acceptance_rate": 0.6667,
        "passes_per_token": 0.4,
        "target_passes": 4,
        "draft_tokens_sent": 12,
        "draft_tokens_verified": 9,
        "draft_tokens_accepted": 6,
        "in_force": None,
        "in_force_reason": None,
        "savings": {"passes": 6, "ms": None, "bytes": None},
        "uplink_bytes": 99,
        "downlink_bytes": 0,
    }
    assert timings(stats, 5) == {
        "prompt_n": 5,
        "prompt_ms": 250.0,
        "prompt_per_second": 20.0,
        "predicted_n": 10,
        "predicted_ms": 750.0,
        "predicted_per_second": 13.3333,
        "draft_n": 9,
        "draft_n_accepted": 6,
    }


@pytest.mark.parametrize(
    ("route", "num_unverified", "verified"),
    [
        (Route.COLLABORATIVE, 0, True),
        (Route.CLOUD, 0, True),
        (Route.LOCAL, 0, False),
        (Route.COLLABORATIVE, 1, False),
    ],
)
def test_verified(route: Route, num_unverified: int, verified: bool) -> None:
    """An answer is verified if every token is the target's."""
    stats = GenerationStats(route, unverified_tokens=num_unverified)
    assert pipesd_stats(stats)["verified"] is verified


def test_nothing_measured_yet() -> None:
    """Rates without a time are null, not a division by zero."""
    assert timings(GenerationStats(), None)["predicted_per_second"] is None
    assert usage(2, 3) == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
