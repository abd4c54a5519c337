"""`pipesd bench quick`: collaborative, plain streaming and draft alone, in the same run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.figures import Figures, Sample, Way, interleaved, summarise
from benchmarks.harness.pair import Measured
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.report import figures_json, machine

__all__ = ["Measure", "QuickPlan", "QuickResult", "quick_json", "run_quick"]

Measure = Callable[[Way, Sequence[int], int], Awaitable[Measured]]
"""Continues a prompt by a number of tokens, one way."""
Show = Callable[[str], None]

WARM_UP_TOKENS: Final = 8


@dataclass(frozen=True, slots=True)
class QuickPlan:
    """Each prompt is continued by `num_tokens` tokens, `repeats` times each way.

    `ways` holds `COLLABORATIVE` and `CLOUD` at least: their texts are compared.
    """

    prompts: tuple[TokenisedPrompt, ...]
    num_tokens: int
    repeats: int
    ways: tuple[Way, ...] = tuple(Way)


@dataclass(frozen=True, slots=True)
class QuickResult:
    """`num_identical` of `num_compared` collaborative texts were the server's own text."""

    figures: Mapping[Way, Figures]
    num_identical: int
    num_compared: int


async def run_quick(plan: QuickPlan, measure: Measure, show: Show) -> QuickResult:
    """Measure all ways, interleaved, after a short warm-up of each prompt each way.

    After the warm-up every prompt is in every cache, so TTFT is that of a prompt seen before.
    Raises what `measure` raises.
    """
    await _warm_up(plan, measure, show)
    samples: dict[Way, list[Sample]] = {way: [] for way in plan.ways}
    texts: dict[Way, list[tuple[int, str]]] = {way: [] for way in plan.ways}
    order = list(interleaved(len(plan.prompts), plan.repeats, plan.ways))
    for done, (index, way) in enumerate(order):
        prompt = plan.prompts[index]
        show(f"Measuring, {done + 1} of {len(order)}: {prompt.name}, {way}")
        measured = await measure(way, prompt.token_ids, plan.num_tokens)
        samples[way].append(measured.sample)
        texts[way].append((index, measured.text))
    pairs = list(zip(texts[Way.COLLABORATIVE], texts[Way.CLOUD], strict=True))
    return QuickResult(
        figures={way: summarise(of_way) for way, of_way in samples.items()},
        num_identical=sum(ours == plain for ours, plain in pairs),
        num_compared=len(pairs),
    )


def quick_json(result: QuickResult, plan: QuickPlan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`figures_json` and what it was measured with."""
    return {
        **figures_json(result.figures),
        "identical": {"num_identical": result.num_identical, "num_compared": result.num_compared},
        "settings": {
            "num_tokens": plan.num_tokens,
            "repeats": plan.repeats,
            "prompts": [prompt.name for prompt in plan.prompts],
            **settings,
        },
        "machine": machine(),
    }


async def _warm_up(plan: QuickPlan, measure: Measure, show: Show) -> None:
    for prompt in plan.prompts:
        for way in plan.ways:
            show(f"Warming up: {prompt.name}, {way}")
            await measure(way, prompt.token_ids, min(WARM_UP_TOKENS, plan.num_tokens))
