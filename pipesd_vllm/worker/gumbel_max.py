"""The token of each row: argmax over tokens v of `log p(v) + noise(v)`. Any device.

p is the softmax of the row's logits over temperature, cut by min_p, top_k and top_p in that order. To
normalise moves all scores of a row alike, so logits over temperature stand in for log p. Nothing is sorted.
A token is in the nucleus if the tokens that are strictly likelier have less than top_p of the mass
(vLLM's rule, except that tokens of equal probability stay or go together).

Two ways to the same token: `pruned_race` in torch, `fused_race` on GPUs.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch

from pipesd_vllm.worker import gumbel_torch as pruned_race
from pipesd_vllm.worker.row_rules import RowRules

__all__ = ["Race", "argmax_rows", "pick", "warm_up"]


def pick(logits: torch.Tensor, rules: RowRules) -> torch.Tensor:
    """The tokens, `[n]` int64, for `logits` `[n, vocab]` float32, which may be overwritten.

    A row whose logits are all -inf or hold a NaN gets some token of the vocabulary.
    """
    tokens = argmax_rows(logits)
    noisy = [row for row, temperature in enumerate(rules.temperature) if temperature > 0]
    if not noisy:
        return tokens
    fused = _fused_race() if logits.is_cuda else None
    if fused is not None:
        return fused(logits, tokens, _least_of_top_k(logits, rules), rules)
    if len(noisy) == len(tokens):
        return pruned_race.race(logits, tokens, _least_of_top_k(logits, rules), rules)
    at = torch.tensor(noisy, device=logits.device)
    rows, own = logits[at], rules.at(noisy)
    tokens[at] = pruned_race.race(rows, tokens[at], _least_of_top_k(rows, own), own)
    return tokens


def warm_up(device: torch.device, vocab_size: int) -> None:
    """Let the kernel be compiled now (seconds, on GPUs alone) rather than in the middle of a request."""
    if device.type == "cuda":
        pick(torch.zeros((1, vocab_size), device=device), RowRules([0], [0], [1.0], [0.9], [0], [0.0]))


def argmax_rows(logits: torch.Tensor) -> torch.Tensor:
    """First index of each row's maximum, `[n]` int64 (NumPy's is some 20 times faster than torch's)."""
    if logits.is_cpu and logits.dtype == torch.float32:
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _least_of_top_k(logits: torch.Tensor, rules: RowRules) -> torch.Tensor | None:
    """`[n]`: the lowest logit that passes top_k, -inf in rows without one; None if no row has one."""
    limited = [row for row, top_k in enumerate(rules.top_k) if 0 < top_k < logits.shape[1]]
    if not limited:
        return None
    least = logits.new_full((len(logits),), float("-inf"))
    at = torch.tensor(limited, device=logits.device)
    ranks = torch.tensor([rules.top_k[row] - 1 for row in limited], device=logits.device)
    values = logits[at].topk(max(rules.top_k[row] for row in limited), dim=1).values
    least[at] = values.gather(1, ranks[:, None])[:, 0]
    return least


class Race(Protocol):
    """One of the two ways."""

    def __call__(
        self, logits: torch.Tensor, likeliest: torch.Tensor, least: torch.Tensor | None, rules: RowRules
    ) -> torch.Tensor:
        """The rows' tokens, `[n]` int64; `likeliest` and `least` are `argmax_rows` and `_least_of_top_k`."""


@functools.cache
def _fused_race() -> Race | None:
    """None without Triton: its compiler is no part of every build of vLLM."""
    try:
        from pipesd_vllm.worker.gumbel_triton import race
    except ImportError:
        return None
    return race
