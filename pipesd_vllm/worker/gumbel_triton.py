"""`gumbel_max`'s choice as one Triton kernel, for GPUs: a program a row, no host synchronisation.

In torch alone the same takes some hundred kernel launches and a dozen waits for the GPU, milliseconds a step.
Here every token gets its exact noise, which a GPU has time for. The definitions are those of `gumbel_max`.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from pipesd_vllm.worker.noise import SPLITMIX_64, signed
from pipesd_vllm.worker.row_rules import RowRules

__all__ = ["race"]

_BLOCK: Final = 4096
_NUM_WARPS: Final = 16

_GAMMA, _MIX_1, _MIX_2 = map(tl.constexpr, SPLITMIX_64)


def race(
    logits: torch.Tensor, likeliest: torch.Tensor, least: torch.Tensor | None, rules: RowRules
) -> torch.Tensor:
    """The tokens, `[n]` int64; a row of temperature 0 gets its likeliest.

    `logits` are `[n, vocab]` float32. `likeliest` are the rows' argmax, `least` the lowest logits that pass
    top_k, both `[n]`.
    """
    logits = logits.contiguous()
    num_rows, vocab_size = logits.shape
    least = logits.new_full((num_rows,), float("-inf")) if least is None else least.contiguous()
    pairs = [(signed(seed), position) for seed, position in zip(rules.seed, rules.position, strict=True)]
    keys = torch.tensor(pairs, dtype=torch.int64, device=logits.device)
    triples = list(zip(rules.temperature, rules.top_p, rules.min_p, strict=True))
    cuts = torch.tensor(triples, dtype=torch.float32, device=logits.device)
    winners = torch.empty_like(likeliest)
    _race_rows[(num_rows,)](
        logits, likeliest, least, keys, cuts, winners, vocab_size, block=_BLOCK, num_warps=_NUM_WARPS
    )
    return winners


@triton.jit
def _race_rows(
    logits,
    likeliest,
    least,
    keys,
    cuts,
    winners,
    vocab_size,
    block: tl.constexpr,
):
    """One row: `keys` are its seed and position, `cuts` its temperature, top_p and min_p."""
    row = tl.program_id(0).to(tl.int64)
    leader = tl.load(likeliest + row)
    winner = leader
    temperature = tl.load(cuts + 3 * row)
    if temperature > 0:
        start = logits + row * vocab_size
        peak = tl.math.div_rn(tl.load(start + leader), temperature)
        least_likely = peak + tl.log(tl.load(cuts + 3 * row + 2))  # min_p; without one the log is -inf
        floor = tl.maximum(tl.math.div_rn(tl.load(least + row), temperature), least_likely)
        text = _mix(tl.load(keys + 2 * row).to(tl.uint64) + _GAMMA)
        place = 2 * tl.load(keys + 2 * row + 1).to(tl.uint64)
        lead = _mix(text + (place + 1) * _GAMMA)
        tail = _mix(text + (place + 2) * _GAMMA)
        lowest = float("-inf")
        winner = _best(start, vocab_size, temperature, floor, lowest, lead, tail, leader, block)
        top_p = tl.load(cuts + 3 * row + 1)
        outside = (top_p < 1) & (winner != leader)
        if outside:
            allowed = top_p * _mass(start, vocab_size, temperature, floor, lowest, peak, block)
            while outside:
                chosen = tl.math.div_rn(tl.load(start + winner), temperature)
                outside = _mass(start, vocab_size, temperature, floor, chosen, peak, block) >= allowed
                if outside:
                    winner = _best(start, vocab_size, temperature, floor, chosen, lead, tail, leader, block)
                    outside = winner != leader
    tl.store(winners + row, winner)


@triton.jit
def _best(
    start,
    vocab_size,
    temperature,
    floor,
    limit,
    lead,
    tail,
    leader,
    block: tl.constexpr,
):
    """The token of the highest score among those from `floor` on and above `limit`; `leader` if none is."""
    best = tl.full((block,), float("-inf"), tl.float64)
    holder = tl.full((block,), 0, tl.int64)
    for first in range(0, vocab_size, block):
        token = first + tl.arange(0, block).to(tl.int64)
        x = tl.math.div_rn(tl.load(start + token, mask=token < vocab_size, other=float("-inf")), temperature)
        score = x.to(tl.float64) + _gumbel(lead, tail, token)
        better = (x >= floor) & (x > limit) & (score > best)
        best = tl.where(better, score, best)
        holder = tl.where(better, token, holder)
    highest = tl.max(best, axis=0)
    token = tl.min(tl.where(best == highest, holder, vocab_size), axis=0)
    return tl.where(highest > float("-inf"), token, leader)


@triton.jit
def _mass(
    start,
    vocab_size,
    temperature,
    floor,
    limit,
    peak,
    block: tl.constexpr,
):
    """The weight, in units of the likeliest token's, of those from `floor` on and above `limit`."""
    total = tl.full((block,), 0.0, tl.float32)
    for first in range(0, vocab_size, block):
        token = first + tl.arange(0, block).to(tl.int64)
        x = tl.math.div_rn(tl.load(start + token, mask=token < vocab_size, other=float("-inf")), temperature)
        total += tl.where((x >= floor) & (x > limit), tl.exp(x - peak), 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _gumbel(lead, tail, token):
    """`noise.gumbel`; 1 - u is exact, so its logarithm is log1p(-u)'s to the last place."""
    words = _mix(((token >> 3) + 1).to(tl.uint64) * _GAMMA + lead)
    leading = (words >> ((token & 7) << 3).to(tl.uint64)) & 255
    rest = _mix((token + 1).to(tl.uint64) * _GAMMA + tail) >> 32
    uniform = (((leading << 32) | rest).to(tl.int64).to(tl.float64) + 0.5) * 2.0**-40
    return -tl.log(-tl.log(1.0 - uniform))


@triton.jit
def _mix(z):
    """SplitMix64's output function."""
    z = (z ^ (z >> 30)) * _MIX_1
    z = (z ^ (z >> 27)) * _MIX_2
    return z ^ (z >> 31)
