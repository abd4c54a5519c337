"""What picking a draft token costs: the plain argmax against the coupled pick under request parameters.

For logits of 49,152 tokens. No model and no network: the time between llama.cpp's logits and the token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.api import Sampling
from edge_agent.sampling.greedy import GreedyPicker
from edge_agent.sampling.picker import TokenPicker
from edge_agent.sampling.sampled import SampledPicker

__all__ = ["DraftingCost", "describe", "measure"]

NUM_TOKENS: Final = 49_152
_NUM_ROWS: Final = 10
_PROMPT: Final = list(range(200))
_SETTINGS: Final = {
    "T=1": Sampling(512, temperature=1.0, seed=7),
    "T=0.7": Sampling(512, temperature=0.7, seed=7),
    "T=1 top_p=0.9": Sampling(512, temperature=1.0, top_p=0.9, seed=7),
    "T=1 top_k=40 top_p=0.9": Sampling(512, temperature=1.0, top_k=40, top_p=0.9, seed=7),
    "T=1 min_p=0.05": Sampling(512, temperature=1.0, min_p=0.05, seed=7),
    "T=1 all penalties": Sampling(
        512, 1.0, seed=7, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1
    ),
    "T=0.7 top_p=0.9, all penalties": Sampling(
        512, 0.7, 0.9, seed=7, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1
    ),
}


@dataclass(frozen=True, slots=True)
class DraftingCost:
    """Medians, in ms a token of the thread's own CPU time: other work on the machine does not count."""

    greedy_ms: float
    coupled_ms: dict[str, float]
    """By parameters."""


def measure(
    *, num_picks: int = 100, repeats: int = 5, clock: Callable[[], float] = time.thread_time
) -> DraftingCost:
    """Time everything `repeats` times, `num_picks` tokens each."""
    rows = _logits(_NUM_ROWS) * (num_picks // _NUM_ROWS)
    coupled = {
        name: median(_time(SampledPicker(settings, len(_PROMPT)), rows, clock) for _ in range(repeats))
        for name, settings in _SETTINGS.items()
    }
    return DraftingCost(median(_time(GreedyPicker(), rows, clock) for _ in range(repeats)), coupled)


def _logits(num: int) -> list[NDArray[np.float32]]:
    """Logits with a broad body and a few tokens far ahead, as those of a language model."""
    rng = np.random.default_rng(0)
    return [
        (rng.normal(0.0, 2.5, NUM_TOKENS) + rng.pareto(2.5, NUM_TOKENS)).astype(np.float32)
        for _ in range(num)
    ]


def _time(picker: TokenPicker, rows: list[NDArray[np.float32]], clock: Callable[[], float]) -> float:
    tokens = list(_PROMPT)
    picker.pick(rows[0], tokens)
    start_s = clock()
    for row in rows:
        tokens.append(picker.pick(row, tokens).token_id)
    return (clock() - start_s) * 1e3 / len(rows)


def describe(cost: DraftingCost) -> list[str]:
    """The figures as lines of text."""
    lines = [f"picking one of {NUM_TOKENS} tokens, ms of CPU:", f"  {'greedy':40} {cost.greedy_ms:6.3f}"]
    return lines + [
        f"  {'coupled, ' + name:40} {milliseconds:6.3f}  (+{milliseconds - cost.greedy_ms:.3f})"
        for name, milliseconds in cost.coupled_ms.items()
    ]
