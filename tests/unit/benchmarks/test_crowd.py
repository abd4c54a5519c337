"""Crowds of edges: drafts as right as asked for, the same work in each way, figures out of it."""

from __future__ import annotations

import pytest

from benchmarks.speed.crowd import (
    AGAIN,
    PIPESD,
    PLAIN,
    AgreeingDrafter,
    Answered,
    CrowdPlan,
    CrowdRound,
    Known,
    crowd_json,
    describe_crowd,
)
from pipesd_vllm.wire import Fingerprint

TEXT = Known((5, 6, 7), tuple(range(100, 400)))


def drafter(agreement: float, seed: int = 0) -> AgreeingDrafter:
    return AgreeingDrafter([TEXT], Fingerprint(1000, "x"), agreement, seed)


def said(agreement: float, seed: int = 0) -> tuple[float, float]:
    """The share of right drafts along the text, and the mean of what the drafts say of themselves."""
    speaking = drafter(agreement, seed)
    drafts = [speaking._say([*TEXT.prompt, *TEXT.tokens[:at]]) for at in range(300)]
    right = [draft.token_id == token for draft, token in zip(drafts, TEXT.tokens, strict=True)]
    return sum(right) / 300, sum(draft.probability for draft in drafts) / 300


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.8, 1.0])
def test_drafts_are_right_as_often_as_asked_for(agreement: float) -> None:
    """And say so of themselves."""
    right, confidence = said(agreement)
    assert right == pytest.approx(agreement, abs=0.08)
    assert confidence == pytest.approx(agreement, abs=0.08)


def test_after_a_wrong_token_drafts_are_wrong() -> None:
    """The draft does not know what the target says after a token that it did not say."""
    speaking = drafter(1.0)
    assert speaking._say([*TEXT.prompt, 100]).token_id == 101
    assert speaking._say([*TEXT.prompt, 999]).token_id != 101
    assert speaking._say([1, 2, 3]).token_id not in TEXT.tokens


def test_the_work_is_the_same_in_every_round() -> None:
    """Every client has prompts of its own while there are enough; pauses are drawn once."""
    plan = CrowdPlan(3, 1, turns=2, arrivals_s=2.0)
    prompts = [plan.prompt_of(client, turn, 100) for client in range(4) for turn in range(2)]
    assert sorted(prompts) == list(range(8))
    assert plan.pauses_s(1) == plan.pauses_s(1) != plan.pauses_s(2)
    assert CrowdPlan(3).pauses_s(0) == [0.0, 0.0]


def crowd_round(*tpt_s: float, num_edges: int = 2) -> CrowdRound:
    """A client for each time a token takes, the first `num_edges` of them edges; answers of 11 tokens."""
    clients = [[Answered(11, 0.0, 0.5, 0.5 + 10 * s, 6)] for s in tpt_s]
    return CrowdRound(clients, num_edges, max(0.5 + 10 * s for s in tpt_s), {"python": 1.0})


def test_figures_and_ratios() -> None:
    """Equal edges have a Jain index of 1, and neighbours a ratio of their own."""
    rounds = {
        PLAIN: [crowd_round(0.1, 0.1, 0.1)] * 3,
        PIPESD: [crowd_round(0.05, 0.05, 0.1)] * 3,
        AGAIN: [crowd_round(0.1, 0.1, 0.1)] * 3,
    }
    found = crowd_json(CrowdPlan(2, 1), rounds)
    assert found["jain"] == pytest.approx(1.0)
    assert found["tpt_p95_ms"] == pytest.approx(50.0)
    assert found["ttft_p95_ms"] == pytest.approx(500.0)
    assert found["plain_neighbours_over_plain"] == pytest.approx(1.0)
    assert found["tokens_per_s_over_plain"] == pytest.approx(1.0)  # the slowest client ends both
    assert found["intervals"]["a_a"][0] == pytest.approx(1.0)
    assert found["passes_per_token"] == pytest.approx(6 / 11, abs=1e-3)
    assert "2 edges beside 1 plain" in describe_crowd(found)[0]


def test_without_plain_clients_there_are_no_neighbours() -> None:
    """The key is there, and says so."""
    rounds = {way: [crowd_round(0.1, 0.3)] * 2 for way in (PLAIN, PIPESD, AGAIN)}
    found = crowd_json(CrowdPlan(2), rounds)
    assert found["plain_neighbours_over_plain"] is None
    assert found["jain"] < 1.0
