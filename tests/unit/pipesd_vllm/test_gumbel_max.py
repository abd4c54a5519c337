"""The choice of a token: it is the argmax it claims to be, and a fair sample."""

import math

import pytest
import torch

from pipesd_vllm import noise
from pipesd_vllm.gumbel_max import RowRules, argmax_rows, pick
from tests.unit.significance import chi_square_p

NUM_SAMPLES = 20_000
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 2.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 1.3, "top_k": 4},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.8, "top_p": 0.8, "top_k": 6, "min_p": 0.02},
]


def rules(num_rows: int, seed: int = 0, **fields: float) -> RowRules:
    values = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | fields
    columns = {name: [value] * num_rows for name, value in values.items()}
    return RowRules(seed=[seed] * num_rows, position=list(range(num_rows)), **columns)  # type: ignore[arg-type]


def distribution(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, min_p: float
) -> torch.Tensor:
    """vLLM's definition, written out: softmax, then min_p, top_k and top_p, each renormalised. float64."""
    p = (logits.double() / temperature).softmax(-1)
    p = torch.where(p < min_p * p.max(), 0.0, p)
    if top_k:
        p = torch.where(p < p.topk(top_k).values[-1], 0.0, p)
    p = p / p.sum()
    ordered, order = p.sort(descending=True)
    outside = ordered.cumsum(0) - ordered >= top_p
    p[order[outside]] = 0.0
    return p / p.sum()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_twenty_thousand_samples_follow_the_distribution(setting: dict[str, float]) -> None:
    """Over 20,000 positions the tokens' frequencies are those of the exact softmax (chi-square)."""
    logits = torch.tensor([2.0, 1.5, 1.2, 0.3, 0.0, -0.5, -1.0, -1.1, -2.0, -4.0, -6.0, float("-inf")])
    tokens = pick(logits.repeat(NUM_SAMPLES, 1), rules(NUM_SAMPLES, 5, **setting))
    full = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | setting
    expected = distribution(logits, **full) * NUM_SAMPLES  # type: ignore[arg-type]
    counts = torch.bincount(tokens, minlength=len(logits))
    assert not counts[expected == 0].any()
    assert chi_square_p(counts[expected > 0], expected[expected > 0]) > 1e-3


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("spread", [0.01, 3.0, 12.0])
def test_the_token_is_the_argmax_over_the_whole_vocabulary(setting: dict[str, float], spread: float) -> None:
    """Skipping what cannot win changes nothing: same tokens as noise and masks on every token."""
    num_rows, vocab_size = 24, 3001
    logits = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(3)) * spread
    logits[:, ::7] = float("-inf")
    full = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | setting
    keys = noise.row_keys(torch.full((num_rows,), -9), torch.arange(num_rows))
    everything = noise.gumbel(
        keys[:, None].expand(-1, vocab_size, -1), torch.arange(vocab_size).expand(num_rows, -1)
    )
    expected = [
        int((distribution(row, **full).log() + extra).argmax())  # type: ignore[arg-type]
        for row, extra in zip(logits, everything, strict=True)
    ]
    assert pick(logits, rules(num_rows, -9, **setting)).tolist() == expected


def test_rows_do_not_depend_on_each_other() -> None:
    """A row's token is the same alone and among rows with other rules; temperature 0 is argmax."""
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(1)) * 2
    mixed = RowRules(
        seed=[1, 1, 2, 3, -4, 5, 6, 7],
        position=[0, 9, 9, 2**32 - 1, 4, 5, 6, 7],
        temperature=[0.0, 1.0, 0.7, 1.0, 0.0, 1.5, 1.0, 0.9],
        top_p=[1.0, 0.9, 1.0, 0.2, 0.5, 0.95, 1.0, 0.8],
        top_k=[0, 0, 5, 0, 3, 100, 1, 0],
        min_p=[0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.05],
    )
    together = pick(logits.clone(), mixed).tolist()
    alone = [int(pick(logits[i : i + 1].clone(), mixed.at([i]))) for i in range(8)]
    assert together == alone
    assert [together[i] for i in (0, 4, 6)] == [int(logits[i].argmax()) for i in (0, 4, 6)]


@pytest.mark.parametrize("value", [float("-inf"), float("nan"), 0.0])
def test_degenerate_rows_still_give_a_token_of_the_vocabulary(value: float) -> None:
    """Nothing allowed, or a model gone wrong, ends in some token and never in an exception."""
    logits = torch.full((3, 40), value)
    tokens = pick(logits, rules(3, top_p=0.5, top_k=3, min_p=0.1))
    assert ((tokens >= 0) & (tokens < 40)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_argmax_takes_the_first_of_equals(dtype: torch.dtype) -> None:
    """Ties go to the smaller id, as in torch."""
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [-math.inf] * 3], dtype=dtype)
    assert argmax_rows(logits).tolist() == [1, 0, 0]
