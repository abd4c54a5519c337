"""The choice of a token: it is the argmax it claims to be, and a fair sample."""

import math

import pytest
import torch
from pipesd_vllm.worker.gumbel_max import argmax_rows, pick, warm_up
from pipesd_vllm.worker.row_rules import RowRules

from pipesd_vllm.worker import noise
from tests.devices import on_each_device
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


@on_each_device
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_twenty_thousand_samples_follow_the_distribution(setting: dict[str, float], device: str) -> None:
    """Over 20,000 positions the tokens' frequencies are those of the exact softmax (chi-square)."""
    logits = torch.tensor([2.0, 1.5, 1.2, 0.3, 0.0, -0.5, -1.0, -1.1, -2.0, -4.0, -6.0, float("-inf")])
    tokens = pick(logits.to(device).repeat(NUM_SAMPLES, 1), rules(NUM_SAMPLES, 5, **setting)).cpu()
    full = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | setting
    expected = distribution(logits, **full) * NUM_SAMPLES  # type: ignore[arg-type]
    counts = torch.bincount(tokens, minlength=len(logits))
    assert not counts[expected == 0].any()
    assert chi_square_p(counts[expected > 0], expected[expected > 0]) > 1e-3


@on_each_device
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("spread", [0.01, 3.0, 12.0])
def test_the_token_is_the_argmax_over_the_whole_vocabulary(
    setting: dict[str, float], spread: float, device: str
) -> None:
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
    assert pick(logits.to(device), rules(num_rows, -9, **setting)).tolist() == expected


@on_each_device
def test_rows_do_not_depend_on_each_other(device: str) -> None:
    """A row's token is the same alone and among rows with other rules; temperature 0 is argmax."""
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(1)).to(device) * 2
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


@on_each_device
@pytest.mark.parametrize("value", [float("-inf"), float("nan"), 0.0])
def test_degenerate_rows_still_give_a_token_of_the_vocabulary(value: float, device: str) -> None:
    """Nothing allowed, or a model gone wrong, ends in some token and never in an exception."""
    logits = torch.full((3, 40), value, device=device)
    tokens = pick(logits, rules(3, top_p=0.5, top_k=3, min_p=0.1))
    assert ((tokens >= 0) & (tokens < 40)).all()


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_argmax_takes_the_first_of_equals(dtype: torch.dtype, device: str) -> None:
    """Ties go to the smaller id, as in torch."""
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [-math.inf] * 3], dtype=dtype, device=device)
    assert argmax_rows(logits).tolist() == [1, 0, 0]


@on_each_device
def test_a_warm_up_leaves_no_trace(device: str) -> None:
    """Tokens are the same before and after."""
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(2)).to(device)
    before = pick(logits.clone(), rules(4, top_p=0.9)).tolist()
    warm_up(torch.device(device), 500)
    assert pick(logits.clone(), rules(4, top_p=0.9)).tolist() == before
