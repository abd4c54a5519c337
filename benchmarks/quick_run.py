"""Runs `pipesd bench quick` on a server that answers, and prints the table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.conditions import Conditions
from benchmarks.harness.pair import started_pair
from benchmarks.harness.prompts import HUMANEVAL, load_prompts, tokenised
from benchmarks.speed.quick import QuickPlan, quick_json, run_quick
from benchmarks.report import table, write_json
from benchmarks.harness.server import ServerChoice
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.console import live_status

__all__ = ["quick_run"]


async def quick_run(
    settings: EdgeSettings,
    choice: ServerChoice,
    conditions: Conditions,
    num_tokens: int,
    num_prompts: int,
    repeats: int,
    json_file: Path | None,
) -> None:
    """Raises `CliError`, `EdgeError`."""
    prompts = load_prompts(HUMANEVAL)[:num_prompts]
    with live_status() as show:
        show("Starting the edge agent")
        async with started_pair(settings, conditions) as pair:
            ready = [await tokenised(prompt, pair.text) for prompt in prompts]
            plan = QuickPlan(tuple(ready), num_tokens, repeats, conditions.ways)
            result = await run_quick(plan, pair.measure, show)
    title = f"{len(ready)} prompts, {num_tokens} tokens each, median of {repeats} runs each"
    out = Console(highlight=False)
    out.print(table(result.figures, title))
    out.print(f"identical text {result.num_identical}/{result.num_compared}")
    if json_file is not None:
        used = {
            "mode": settings.mode,
            "policy": settings.policy,
            "rtt_ms": conditions.rtt_s * 1e3,
            "edge_gamma_ms": conditions.gamma_s * 1e3,
            "target": pair.target.model,
            "dtype": choice.dtype,
            "draft": settings.draft,
        }
        write_json(json_file, quick_json(result, plan, used))
