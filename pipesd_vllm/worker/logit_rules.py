"""What a request's rule does to its logits before temperature: masks, biases, penalties. torch, in place.

The meaning and the order are those of vLLM's sampler (`vllm.v1.sample.sampler.Sampler`), on the
rows of one verify step: row j holds the logits that follow the tokens so far and the first j drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipesd_vllm.worker.sampling_rule import SamplingRule

__all__ = ["adjust"]

_NEVER = float("-inf")


def adjust(
    rows: torch.Tensor, rule: SamplingRule, prompt: NDArray[np.int32], generated: Sequence[int]
) -> None:
    """Change `rows` (`[n, vocab]` float32) as `rule` says.

    `generated` are the generated tokens followed by the drafts: row j follows all but the last `n - 1 - j`
    of them. `prompt` are the tokens before.
    """
    num_rows = rows.shape[0]
    num_before = len(generated) - (num_rows - 1)
    if rule.allowed_token_ids:
        _allow_only(rows, rule.allowed_token_ids)
    for words, row in ((rule.bad_words, j) for j in range(num_rows) if rule.bad_words):
        _forbid(rows[row], words, generated[: num_before + row])
    num_early = min(num_rows, rule.min_tokens - num_before)
    if num_early > 0 and rule.stop_token_ids:
        rows[:num_early, rule.stop_token_ids] = _NEVER
    if rule.logit_bias:
        ids = torch.tensor(list(rule.logit_bias), device=rows.device)
        rows[:, ids] += torch.tensor(list(rule.logit_bias.values()), device=rows.device)
    if rule.penalises:
        _penalise(rows, rule, prompt, generated)


def _allow_only(rows: torch.Tensor, allowed: list[int]) -> None:
    ids = torch.tensor(allowed, device=rows.device)
    kept = rows[:, ids]
    rows.fill_(_NEVER)
    rows[:, ids] = kept


def _forbid(row: torch.Tensor, bad_words: list[list[int]], past: Sequence[int]) -> None:
    """A word's last token is out where the tokens before it stand at the end of `past`."""
    ids = []
    for *beginning, last in bad_words:
        length = len(beginning)
        if not length or list(past[-length:]) == beginning:
            ids.append(last)
    if ids:
        row[ids] = _NEVER


def _penalise(
    rows: torch.Tensor, rule: SamplingRule, prompt: NDArray[np.int32], generated: Sequence[int]
) -> None:
    """Touches only the tokens that occurred, each row with its own counts."""
    num_rows, vocab_size = rows.shape
    num_before = len(generated) - (num_rows - 1)
    counts = np.bincount(np.asarray(generated[:num_before], np.int64), minlength=vocab_size)
    occurred = counts > 0
    if rule.repetition_penalty != 1.0:
        occurred[prompt] = True
    row_ids, token_ids, occurrences = [], [], []
    for row in range(num_rows):
        if row:
            draft = generated[num_before + row - 1]
            if draft >= 0:  # vLLM fills a request up with -1 when it lets it in: no token
                counts[draft] += 1
                occurred[draft] = True
        ids = np.flatnonzero(occurred)
        row_ids.append(np.full(len(ids), row))
        token_ids.append(ids)
        occurrences.append(counts[ids])
    at = tuple(torch.from_numpy(np.concatenate(parts)).to(rows.device) for parts in (row_ids, token_ids))
    times = torch.from_numpy(np.concatenate(occurrences)).to(rows.device)
    logits = rows[at]
    logits = torch.where(logits > 0, logits / rule.repetition_penalty, logits * rule.repetition_penalty)
    logits -= rule.frequency_penalty * times + rule.presence_penalty * (times > 0)
    rows[at] = logits
