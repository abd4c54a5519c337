"""One setting of the matrix: the target alone on all prompts, then sessions in batches of every size."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.differences import Continuation, Difference, first_difference
from benchmarks.exactness.margin import Margin, margin
from benchmarks.matrix.session import Run, run_session
from benchmarks.matrix.settings import Setting
from benchmarks.harness.prompts import TokenisedPrompt
from edge_agent.generation import SamplingSettings
from edge_agent.transport import Connector

__all__ = ["MAX_BATCH", "Compared", "Matrix", "Reference", "batches"]

MAX_BATCH: Final = 8


class Reference(Protocol):
    """The target alone."""

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
        """The whole continuation, drawn with the seed of `sampling`."""
        ...

    async def logits(self, prefix: Sequence[int]) -> Mapping[int, float]:
        """The logits (or log-probabilities) after `prefix`, of as many tokens as the server tells."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one prompt under one setting. `margin` is None if it does not apply or is not known."""

    setting: str
    name: str
    seed: int
    batch_size: int
    drafted: int
    accepted: int
    rebuilt: bool
    difference: Difference | None = None
    margin: Margin | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Both ends, and what is asked of them. `advance` is called once a text, on either side."""

    reference: Reference
    connector: Connector
    num_tokens: int
    seed: int
    advance: Callable[[], None] = lambda: None

    async def compare(self, setting: Setting, prompts: Sequence[TokenisedPrompt]) -> list[Compared]:
        """Prompt i has the seed `self.seed + i`, on both sides. Raises `CliError`, `CloudError`."""
        samplings = [setting.sampling(self.num_tokens, self.seed + i) for i in range(len(prompts))]
        truths = await self._truths(prompts, samplings)
        rng = random.Random(f"{setting.name} {self.seed}")
        order = rng.sample(range(len(prompts)), len(prompts))
        results: list[Compared] = []
        for batch in batches(order):
            randoms = [random.Random(rng.random()) for _ in batch]
            runs = await asyncio.gather(
                *(
                    self._session(prompts[i], samplings[i], truths[i], own)
                    for i, own in zip(batch, randoms, strict=True)
                )
            )
            for i, run in zip(batch, runs, strict=True):
                made = await self._compared(prompts[i], samplings[i], truths[i], run)
                results.append(_labelled(setting, prompts[i], self.seed + i, len(batch), run, made))
        return results

    async def _truths(
        self, prompts: Sequence[TokenisedPrompt], samplings: Sequence[SamplingSettings]
    ) -> list[tuple[int, ...]]:
        room = asyncio.Semaphore(MAX_BATCH)

        async def truth(prompt: TokenisedPrompt, sampling: SamplingSettings) -> tuple[int, ...]:
            async with room:
                continuation = await self.reference.complete(prompt.token_ids, sampling)
            self.advance()
            return continuation.token_ids

        return await asyncio.gather(*map(truth, prompts, samplings))

    async def _session(
        self, prompt: TokenisedPrompt, sampling: SamplingSettings, truth: Sequence[int], rng: random.Random
    ) -> Run:
        run = await run_session(self.connector, prompt.token_ids, sampling, truth, rng)
        self.advance()
        return run

    async def _compared(
        self, prompt: TokenisedPrompt, sampling: SamplingSettings, truth: tuple[int, ...], run: Run
    ) -> tuple[Difference, Margin | None] | None:
        """Where the two part and how close it was; None if they are the same."""
        plain, ours = Continuation(truth, "", None), Continuation(tuple(run.tokens), "", None)
        difference = first_difference(plain, ours)
        if difference is None:
            return None
        if difference.plain_token is None or difference.our_token is None:
            return difference, None
        before = truth[: difference.position]
        logits = await self.reference.logits((*prompt.token_ids, *before))
        tokens = difference.plain_token, difference.our_token
        return difference, margin(logits, sampling, prompt.token_ids, before, *tokens)


def batches(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """`order` in pieces of every size from 1 to 8, large and small ones in turns."""
    sizes = (8, 1, 7, 2, 6, 3, 5, 4)
    start = number = 0
    while start < len(order):
        size = sizes[number % len(sizes)]
        yield order[start : start + size]
        start, number = start + size, number + 1


def _labelled(
    setting: Setting,
    prompt: TokenisedPrompt,
    seed: int,
    batch_size: int,
    run: Run,
    made: tuple[Difference, Margin | None] | None,
) -> Compared:
    difference, how_close = made or (None, None)
    return Compared(
        setting.name,
        prompt.name,
        seed,
        batch_size,
        run.drafted,
        run.accepted,
        run.rebuilt,
        difference,
        how_close,
    )
