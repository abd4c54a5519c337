"""Runs `pipesd bench exact` on a server that answers, and prints what came of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from benchmarks.differences import near_tie_nats as default_near_tie_nats
from benchmarks.exactness.exact import Checked, Plain, ThroughGateway, check, describe, fitting
from benchmarks.harness.pair import Pair, started_pair
from benchmarks.plain_server import PlainServer
from benchmarks.harness.prompts import HUMANEVAL, Prompt, in_order, load_prompts
from benchmarks.report import machine, write_json
from edge_agent.generation import SamplingSettings
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.console import stderr
from openai_gateway.cli.errors import CliError

__all__ = ["ExactPlan", "check_all", "exact_json", "exact_run"]


@dataclass(frozen=True, slots=True)
class ExactPlan:
    """`num` prompts that fit from each of `sources`, which are tried in their order."""

    sources: tuple[tuple[Prompt, ...], ...]
    num: int
    sampling: SamplingSettings
    near_tie_nats: float
    dtype: str | None

    @classmethod
    def load(
        cls,
        sources: Sequence[str] | None,
        num: int,
        *,
        spread: bool,
        sampling: SamplingSettings,
        near_tie_nats: float | None,
        dtype: str | None,
    ) -> Self:
        """Read the prompts. Raises `CliError`."""
        loaded = [tuple(in_order(load_prompts(s), num, spread=spread)) for s in sources or [HUMANEVAL]]
        limit = default_near_tie_nats(dtype) if near_tie_nats is None else near_tie_nats
        return cls(tuple(loaded), num, sampling, limit, dtype)


async def exact_run(settings: EdgeSettings, plan: ExactPlan, json_file: Path | None) -> bool:
    """Whether all were identical. Raises `CliError`, `EdgeError`."""
    out = Console(highlight=False, markup=False, soft_wrap=True)
    stderr.print("Starting the edge agent")
    async with started_pair(settings) as pair:
        results = await check_all(pair, PlainServer(pair.cloud, pair.target.model), plan, out)
    if json_file is not None:
        write_json(json_file, exact_json(results, plan, settings, pair.target.model))
    num_identical = sum(checked.difference is None for checked in results)
    out.print(f"identical {num_identical}/{len(results)}")
    return num_identical == len(results)


async def check_all(pair: Pair, plain: Plain, plan: ExactPlan, out: Console) -> list[Checked]:
    """Check each prompt of the plan and print what came of it. Raises `CliError`, `EdgeError`."""
    results: list[Checked] = []
    for source in plan.sources:
        found = await _check_source(pair, plain, source, plan, out)
        if len(found) < plan.num:
            out.print(f"only {len(found)} prompts were there and fit, {plan.num} were wanted")
        results += found
    if not results:
        raise CliError("None of the prompts fits: ask for fewer --tokens, or serve with a longer context.")
    return results


def exact_json(
    results: Sequence[Checked], plan: ExactPlan, settings: EdgeSettings, target: str
) -> dict[str, Any]:
    """The counts, every difference, and what it was measured with."""
    different = [checked for checked in results if checked.difference is not None]
    return {
        "num_identical": len(results) - len(different),
        "num_compared": len(results),
        "differences": [asdict(checked) for checked in different],
        "near_tie_nats": plan.near_tie_nats,
        "settings": {
            **asdict(plan.sampling),
            "mode": settings.mode,
            "target": target,
            "dtype": plan.dtype,
            "draft": settings.draft,
        },
        "machine": machine(),
    }


async def _check_source(
    pair: Pair, plain: Plain, source: Sequence[Prompt], plan: ExactPlan, out: Console
) -> list[Checked]:
    ours = ThroughGateway(pair)
    room = pair.target.max_model_len - plan.sampling.max_tokens
    results: list[Checked] = []
    async with aclosing(fitting(source, pair.text, room, out.print)) as prompts:
        async for prompt in prompts:
            checked = await check(prompt, plain, ours, plan.sampling)
            out.print(describe(checked, plan.near_tie_nats, pair.token_text))
            results.append(checked)
            if len(results) == plan.num:
                break
    return results
