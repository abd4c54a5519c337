"""Runs `pipesd bench tune` on a server that answers, and prints the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.conditions import Conditions
from benchmarks.figures import Sample, Way
from benchmarks.harness.pair import Pair, started_pair
from benchmarks.harness.prompts import HUMANEVAL, load_prompts, tokenised
from benchmarks.report import machine, write_json
from benchmarks.speed.tune import Found, TunePlan, run_tune, tune_json
from benchmarks.tune_arms import Arm, Search, SwitchedSources
from edge_agent.agent_parts import policy_parameters
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.console import live_status

__all__ = ["TuneOptions", "tune_run", "tune_table"]


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How much is measured. `num_held_out` prompts are for the comparison alone."""

    num_seeds: int
    num_trials: int
    trial_tokens: int
    num_tokens: int
    num_prompts: int = 12
    num_held_out: int = 4
    repeats: int = 1


async def tune_run(
    settings: EdgeSettings, conditions: Conditions, options: TuneOptions, json_file: Path | None
) -> None:
    """Raises `CliError`, `EdgeError`."""
    base = policy_parameters(settings)
    sources = SwitchedSources(base)
    with live_status() as show:
        show("Starting the edge agent")
        async with started_pair(settings, conditions, sources) as pair:
            search = Search(base, settings.mode, options.num_trials, options.trial_tokens)
            plan = await _plan(search, options, pair)

            async def generate(prompt_token_ids: Sequence[int], num_tokens: int) -> Sample:
                return (await pair.measure(Way.COLLABORATIVE, prompt_token_ids, num_tokens)).sample

            found = await run_tune(plan, sources, generate, show)
    report = tune_json(found, {"rtt_ms": conditions.rtt_s * 1e3, "mode": settings.mode} | _of(options))
    out = Console(highlight=False)
    out.print(tune_table(report, found))
    if json_file is not None:
        write_json(json_file, {**report, "machine": machine()})


async def _plan(search: Search, options: TuneOptions, pair: Pair) -> TunePlan:
    num = options.num_held_out + options.num_prompts
    ready = [await tokenised(prompt, pair.text) for prompt in load_prompts(HUMANEVAL)[:num]]
    return TunePlan(
        search,
        prompts=tuple(ready[options.num_held_out :]),
        held_out=tuple(ready[: options.num_held_out]),
        num_tokens=options.num_tokens,
        seeds=tuple(range(options.num_seeds)),
        repeats=options.repeats,
    )


def _of(options: TuneOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in TuneOptions.__slots__}


def tune_table(report: Mapping[str, Any], found: Sequence[Found]) -> Table:
    """One column an arm: TPT, passes, and what was found last."""
    num_seeds = len({one.seed for one in found})
    table = Table(title=f"Median of {num_seeds} seeds", title_justify="left")
    table.add_column("")
    arms = list(dict.fromkeys(one.arm for one in found))
    for arm in arms:
        table.add_column(arm, justify="right")
    fixed_ms = report[Arm.FIXED]["tpt_ms"]
    table.add_row("TPT, ms/token", *(f"{report[arm]['tpt_ms']:.1f}" for arm in arms))
    ranges = [list(report[arm]["tpt_ms_by_seed"].values()) for arm in arms]
    table.add_row("  least to most", *(f"{min(of):.1f} to {max(of):.1f}" for of in ranges))
    table.add_row("TPT vs fixed", *(f"{report[arm]['tpt_ms'] / fixed_ms:.2f}x" for arm in arms))
    table.add_row("target passes/token", *(f"{report[arm]['target_passes_per_token']:.3f}" for arm in arms))
    return table
