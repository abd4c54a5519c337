"""`gumbel_max`'s choice in torch alone, for CPUs and wherever Triton is not: noise only where it can matter.

1. The likeliest token's score is one that the winner must reach.
2. The leading byte of a token's noise bounds it. Tokens with a leading byte of 0 (one in 256) may win
   from anywhere; all others only from within `MAX_NOISE_UNLESS_LEADING` of that score, most from less.
3. The exact scores of those contenders decide. Whether the winner lies inside the top_p nucleus takes one sum
   over the row; if not, it goes and takes along everything less likely, and the next best is looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from pipesd_vllm.worker import noise
from pipesd_vllm.worker.row_rules import RowRules

__all__ = ["race"]

_LOW: Final = 16
_MAX_NOISE_UNLESS_LOW: Final = -math.log(-math.log1p(-_LOW / 256))
_SLACK: Final = 1e-2
"""Far above rounding errors of a score, far below anything that costs time."""


@dataclass(slots=True)
class _Contenders:
    """Tokens that may win, in no order: entry i is token `token[i]` of row `row[i]`."""

    row: torch.Tensor
    token: torch.Tensor
    logit: torch.Tensor
    score: torch.Tensor

    def at(self, kept: torch.Tensor) -> _Contenders:
        return _Contenders(self.row[kept], self.token[kept], self.logit[kept], self.score[kept])

    def winners(self, likeliest: torch.Tensor) -> torch.Tensor:
        """Each row's token of the highest score (of equal ones the first); its `likeliest` if it has none."""
        num_rows = len(likeliest)
        best = self.score.new_full((num_rows,), float("-inf")).scatter_reduce(0, self.row, self.score, "amax")
        first = self.at(self.score == best[self.row])
        none = likeliest.new_full((num_rows,), torch.iinfo(torch.int64).max)
        tokens = none.scatter_reduce(0, first.row, first.token, "amin")
        return torch.where(tokens == none, likeliest, tokens)


def race(
    logits: torch.Tensor, likeliest: torch.Tensor, least: torch.Tensor | None, rules: RowRules
) -> torch.Tensor:
    """The tokens, `[n]` int64, of rows that all have a temperature; `logits` may be overwritten.

    `likeliest` are the rows' argmax, `least` the lowest logits that pass top_k, both `[n]`.
    """
    if any(temperature != 1.0 for temperature in rules.temperature):
        temperatures = torch.tensor(rules.temperature, device=logits.device)
        logits.div_(temperatures[:, None])
        least = None if least is None else least / temperatures
    peak = logits.gather(1, likeliest[:, None])
    floor = _floor(peak, least, rules)
    contenders = _contenders(logits, likeliest, peak, floor, rules)
    winners = contenders.winners(likeliest)
    cut = [row for row, top_p in enumerate(rules.top_p) if top_p < 1.0]
    if cut:
        _keep_to_nucleus(winners, contenders, logits, likeliest, peak, floor, rules, cut)
    return winners


def _floor(peak: torch.Tensor, least: torch.Tensor | None, rules: RowRules) -> torch.Tensor:
    """`[n, 1]`: no token with a lower logit passes min_p and top_k; -inf where there is no limit."""
    floor = torch.full_like(peak, float("-inf"))
    if any(rules.min_p):
        floor = peak + torch.tensor(rules.min_p, device=peak.device).log()[:, None]
    return floor if least is None else torch.maximum(floor, least[:, None])


def _contenders(
    logits: torch.Tensor,
    likeliest: torch.Tensor,
    peak: torch.Tensor,
    floor: torch.Tensor,
    rules: RowRules,
) -> _Contenders:
    """Every token above the floor whose score reaches the likeliest token's."""
    device = logits.device
    seeds = torch.tensor([noise.signed(seed) for seed in rules.seed], device=device)
    keys = noise.row_keys(seeds, torch.tensor(rules.position, device=device))
    to_beat = peak[:, 0].double() + noise.gumbel(keys, likeliest)
    leading = noise.leading_bytes(keys, logits.shape[1])
    flat = _reaching(logits, leading, to_beat)
    row = flat // logits.shape[1]
    token = flat - row * logits.shape[1]
    logit = logits.view(-1)[flat]
    reachable = logit + noise.upper_bounds(device)[leading.reshape(-1)[flat].long()] >= to_beat[row] - _SLACK
    possible = (reachable & (logit >= floor[row, 0])).nonzero().squeeze(1)
    row, token, logit = row[possible], token[possible], logit[possible]
    score = logit.double() + noise.gumbel(keys[row], token)
    found = _Contenders(row, token, logit, score)
    return found.at(score >= to_beat[row] - _SLACK)


def _reaching(logits: torch.Tensor, leading: torch.Tensor, to_beat: torch.Tensor) -> torch.Tensor:
    """Flat indices of the tokens that may reach `to_beat`, judged in three classes of leading bytes."""
    far = (to_beat - (noise.MAX_NOISE_UNLESS_LEADING + _SLACK)).float()[:, None]
    near = (to_beat - (_MAX_NOISE_UNLESS_LOW + _SLACK)).float()[:, None]
    # The same operators on arrays: NumPy's comparisons and index lists are several times faster than torch's.
    on_cpu = logits.is_cpu
    arrays: list[Any] = [x.numpy() if on_cpu else x for x in (logits, leading, far, near)]
    values, low, if_low, otherwise = arrays
    mask = low < _LOW
    mask &= values >= if_low
    mask |= low == 0
    mask |= values >= otherwise
    return torch.from_numpy(np.flatnonzero(mask)) if on_cpu else mask.view(-1).nonzero().squeeze(1)


def _keep_to_nucleus(
    winners: torch.Tensor,
    contenders: _Contenders,
    logits: torch.Tensor,
    likeliest: torch.Tensor,
    peak: torch.Tensor,
    floor: torch.Tensor,
    rules: RowRules,
    cut: list[int],
) -> None:
    """Replace winners outside the nucleus, in place; `cut` are the rows that have one.

    Ends, because each round takes contenders away and the likeliest token is left where it is.
    """
    device = logits.device
    rows = torch.tensor(cut, device=device)
    possible = logits[rows] >= floor[rows] if any(rules.min_p) or any(rules.top_k) else None
    weights = (logits[rows] - peak[rows]).exp_()
    total = (weights if possible is None else torch.where(possible, weights, 0.0)).sum(1)
    allowed = total * torch.tensor([rules.top_p[row] for row in cut], device=device)
    while len(rows):
        chosen = logits[rows, winners[rows]]
        own = weights.gather(1, winners[rows][:, None])
        above = torch.where(weights > own, weights, 0.0).sum(1)
        outside = ((above >= allowed) & (winners[rows] != likeliest[rows])).nonzero().squeeze(1)
        rows, weights, allowed, chosen = rows[outside], weights[outside], allowed[outside], chosen[outside]
        limit = torch.full_like(peak[:, 0], float("-inf"))
        limit[rows] = chosen
        contenders = contenders.at(contenders.logit > limit[contenders.row])
        winners[rows] = contenders.winners(likeliest)[rows]
