"""What a server gives as its users become more: small crowds, and the replay of vLLM's n-grams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.sim.capacity import Crowd, Row, Way, _Ngrams, jain, measured
from benchmarks.sim.costs import COSTS, Costs
from benchmarks.sim.plan import StepCost

FULL = Costs(StepCost(base_s=0.002, token_s=0.001), async_scheduling=False, max_num_seqs=16)
"""Rows are nearly all that costs: a server at its limit."""


def crowd(costs: Costs, edges: int, plain: int = 0, junk: int = 0) -> Crowd:
    return Crowd(costs, "here", edges, plain, junk, rtt_s=0.01, draft_s=0.002, turns=4, pair="tiny")


def rows(them: Crowd) -> dict[Way, Row]:
    return {way: measured(them, way) for way in (Way.PLAIN, Way.ALL_DRAFTS, Way.OURS)}


def test_at_the_limit_drafts_are_left_out() -> None:
    """Where rows are all that costs, twelve edges get about what plain streaming gives, in equal parts: the
    rest is the time in which the server learns that, and prompts that come at other times.
    """
    found = rows(crowd(FULL, 12))
    plain = found[Way.PLAIN].tokens_per_s
    assert found[Way.OURS].tokens_per_s >= 0.9 * plain
    assert found[Way.OURS].tokens_per_s > found[Way.ALL_DRAFTS].tokens_per_s
    assert found[Way.OURS].jain >= 0.95
    assert found[Way.OURS].drafted_per_token <= 0.5 * found[Way.ALL_DRAFTS].drafted_per_token


def test_a_junk_edge_costs_its_neighbours_next_to_nothing() -> None:
    """Certain of all its wrong drafts, sixteen a frame: two edges and two plain clients do not feel it."""
    costs = COSTS["h100-8b"]
    alone = measured(crowd(costs, 2, 2), Way.OURS)
    beside = measured(crowd(costs, 2, 2, junk=1), Way.OURS)
    assert beside.plain_tokens_per_s >= 0.98 * alone.plain_tokens_per_s


def test_ngrams_are_those_that_vllm_finds() -> None:
    """The longest match decides, where it first stood; eight tokens at most follow."""
    assert list(_Ngrams([1, 2, 3, 9, 1, 2]).propose()) == [3, 9, 1, 2]
    assert list(_Ngrams([1, 2, 3]).propose()) == []
    assert list(_Ngrams([7, 2, 3, 4, 5, 2, 3, 6, 7, 2, 3]).propose()) == [4, 5, 2, 3, 6, 7, 2, 3]
    grown = _Ngrams([1, 2, *range(10, 20)])
    for token in (1, 2):
        grown.append(token)
    assert list(grown.propose()) == list(range(10, 18))


def test_a_server_with_ngrams_commits_the_recorded_texts() -> None:
    """Every token once; fewer passes than tokens where texts repeat themselves."""
    row = measured(crowd(COSTS["gpu-15"], 3, 1), Way.NGRAM)
    assert 0.0 < row.passes_per_token <= 1.0
    assert row.drafted_per_token >= 0.0
    assert row.tokens_per_s > 0.0


@pytest.mark.parametrize(("rates", "index"), [([2.0] * 5, 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25), ([0.0], 1.0)])
def test_fairness_is_jains(rates: list[float], index: float) -> None:
    """1 for equal parts, 1/n where one has all."""
    assert jain(rates) == pytest.approx(index)


def test_the_command_writes_rows_and_a_picture(tmp_path: Path) -> None:
    """A line for each crowd and way; ratios stand beside plain streaming."""
    file, picture = tmp_path / "rows.json", tmp_path / "rates.png"
    arguments = ["capacity", "--costs", "cpu", "--edges", "1,2", "--pair", "tiny", "--turns", "1"]
    done = CliRunner().invoke(app, [*arguments, "--json", str(file), "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert [(row["edges"], row["way"]) for row in found] == [
        (edges, way) for edges in (1, 2) for way in ("plain", "n-gram", "no budget", "ours")
    ]
    assert picture.stat().st_size > 10_000
