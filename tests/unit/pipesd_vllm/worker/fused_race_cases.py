"""The kernel gives what torch alone gives; `test_fused_race.py` runs these in a process of their own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pipesd_vllm.worker.gumbel_triton import race
from pipesd_vllm.worker.row_rules import RowRules

from pipesd_vllm.worker import gumbel_torch as pruned_race

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEVER = float("-inf")
NUM_ROWS = 7
MIXED = RowRules(
    seed=[1, 2**63 + 5, -3, 4, 5, 6, 7],
    position=[0, 9, 2**32 - 1, 3, 4, 5, 6],
    temperature=[1.0, 0.7, 1.0, 1.5, 0.01, 1.0, 2.0],
    top_p=[1.0, 0.9, 0.3, 1.0, 0.9, 1e-6, 0.8],
    top_k=[0] * NUM_ROWS,
    min_p=[0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.02],
)


def both(
    logits: torch.Tensor, rules: RowRules, least: torch.Tensor | None = None
) -> tuple[list[int], list[int]]:
    """The tokens of the kernel, and those of `pruned_race`."""
    likeliest = logits.argmax(-1)
    there = None if least is None else least.to(DEVICE)
    fused = race(logits.to(DEVICE), likeliest.to(DEVICE), there, rules)
    return fused.tolist(), pruned_race.race(logits.clone(), likeliest, least, rules).tolist()


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # the log of a min_p of 0
@pytest.mark.parametrize("spread", [0.01, 3.0, 6.0])
@pytest.mark.parametrize("vocab_size", [40, 5000])
def test_the_tokens_are_those_of_the_other_way(spread: float, vocab_size: int) -> None:
    """Rows of different rules, less and more than a block of tokens, with tokens that are forbidden."""
    logits = torch.randn(NUM_ROWS, vocab_size, generator=torch.Generator().manual_seed(11)) * spread
    logits[:, ::7] = NEVER
    fused, pruned = both(logits, MIXED)
    assert fused == pruned
    assert fused != logits.argmax(-1).tolist() or spread > 3


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_nothing_below_the_least_wins() -> None:
    """What top_k leaves is all that is looked at, by the nucleus too."""
    logits = torch.randn(NUM_ROWS, 300, generator=torch.Generator().manual_seed(5))
    least = logits.topk(4).values[:, -1]
    fused, pruned = both(logits, replace(MIXED, top_k=[4] * NUM_ROWS), least)
    assert fused == pruned
    assert all(logits[row, token] >= least[row] for row, token in enumerate(fused))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [NEVER, math.nan, 0.0])
def test_degenerate_rows_give_a_token_of_the_vocabulary(value: float) -> None:
    """Nothing allowed, or a model gone wrong."""
    tokens = race(
        torch.full((NUM_ROWS, 40), value, device=DEVICE),
        torch.zeros(NUM_ROWS, dtype=torch.int64, device=DEVICE),
        None,
        MIXED,
    )
    assert ((tokens >= 0) & (tokens < 40)).all()


def test_without_a_temperature_the_likeliest_token_wins() -> None:
    """Greedy rows of a mixed step pass through."""
    rules = RowRules([1, 2], [3, 4], [0.0, 0.0], [0.5, 1.0], [0, 0], [0.1, 0.0])
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]], device=DEVICE)
    assert race(logits, logits.argmax(-1), None, rules).tolist() == [1, 0]
