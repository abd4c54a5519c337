"""What is run in which order. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeVar

from benchmarks.harness.rivals import Rival

__all__ = ["Job", "interleaved", "prompts_of_seed"]

_ORDER_SEED: Final = 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Job:
    """One generation. `number` is that of (seed, dataset, prompt): the same for all rivals."""

    number: int
    seed: int
    dataset: str
    prompt: int
    rival: Rival


def prompts_of_seed(prompts: Sequence[_T], seed: int, num: int) -> list[_T]:
    """`num` prompts that no other seed has, as long as there are enough; always the same ones."""
    order = list(range(len(prompts)))
    random.Random(_ORDER_SEED).shuffle(order)
    return [prompts[order[(seed * num + i) % len(order)]] for i in range(num)]


def interleaved(
    seeds: Sequence[int], num_prompts: Mapping[str, int], rivals: Sequence[Rival]
) -> Iterator[Job]:
    """All rivals of a prompt one after the other, another one coming first each time.

    Slow drift of the machine, and caches that get warm, then favour nobody.
    """
    cases = product(seeds, [(name, i) for name, num in num_prompts.items() for i in range(num)])
    for number, (seed, (dataset, prompt)) in enumerate(cases):
        first = number % len(rivals)
        for rival in (*rivals[first:], *rivals[:first]):
            yield Job(number, seed, dataset, prompt, rival)
