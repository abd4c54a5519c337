"""`pipesd bench tune`: tuned parameters against fixed ones, a grid and random search, in the same run."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from benchmarks.figures import Figures, Sample, summarise
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.tune_arms import Arm, Search, SwitchedSources
from edge_agent.policies.base import PolicyParameters
from edge_agent.tuning.autotuner import FixedParameters
from edge_agent.tuning.state import Phase
from edge_agent.tuning.tuner import Tuner
from openai_gateway.cli.errors import CliError

__all__ = ["Found", "TunePlan", "run_tune", "tune_json"]

Generate = Callable[[Sequence[int], int], Awaitable[Sample]]
"""Continues a prompt by a number of tokens, collaboratively."""
Show = Callable[[str], None]

_MOST_TURNS_A_TRIAL: Final = 20


@dataclass(frozen=True, slots=True)
class TunePlan:
    """For each of `seeds`: all searches, then `repeats` rounds over `held_out` with what they found.

    Searches work on `prompts`, in an order that the seed sets; every turn has `num_tokens` tokens.
    """

    search: Search
    prompts: tuple[TokenisedPrompt, ...]
    held_out: tuple[TokenisedPrompt, ...]
    num_tokens: int
    seeds: tuple[int, ...]
    repeats: int = 1
    arms: tuple[Arm, ...] = tuple(Arm)


@dataclass(frozen=True, slots=True)
class Found:
    """What one way to choose came to with one seed."""

    arm: Arm
    seed: int
    parameters: PolicyParameters
    figures: Figures
    """On the held-out prompts."""
    num_trials: int
    num_turns: int
    """Turns that the search took."""


async def run_tune(plan: TunePlan, sources: SwitchedSources, generate: Generate, show: Show) -> list[Found]:
    """Search and compare. `generate` must use `sources`. Raises what it raises, and `CliError`."""
    found: list[Found] = []
    for seed in plan.seeds:
        chosen: dict[Arm, tuple[PolicyParameters, int, int]] = {}
        for arm in _rotated(plan.arms, seed):
            chosen[arm] = await _search(plan, arm, seed, sources, generate, show)
        parameters = {arm: chosen[arm][0] for arm in plan.arms}
        samples = await _compare(plan, parameters, seed, sources, generate, show)
        found += [
            Found(arm, seed, chosen[arm][0], summarise(samples[arm]), *chosen[arm][1:]) for arm in plan.arms
        ]
    return found


async def _search(
    plan: TunePlan, arm: Arm, seed: int, sources: SwitchedSources, generate: Generate, show: Show
) -> tuple[PolicyParameters, int, int]:
    """Parameters found, trials and turns that took. Raises `CliError` if it does not end."""
    if arm is Arm.FIXED:
        return plan.search.fixed, 0, 0
    prompts = random.Random(seed).sample(plan.prompts, len(plan.prompts))
    num_turns, most_turns = 0, plan.search.num_trials * _MOST_TURNS_A_TRIAL
    with plan.search.tuner(arm, seed) as tuner:
        sources.use(tuner)
        while tuner.phase is not Phase.EXPLOITING:
            if num_turns == most_turns:
                raise CliError(
                    f"The search {arm} has not ended after {num_turns} turns: ask for more --tokens."
                )
            show(f"Seed {seed}, {arm}: trial {_trial_number(tuner)} of {plan.search.num_trials}")
            await generate(prompts[num_turns % len(prompts)].token_ids, plan.num_tokens)
            num_turns += 1
        return tuner.parameters, len(tuner.state.observations), num_turns


def _trial_number(tuner: Tuner) -> int:
    return len(tuner.state.observations) + 1


async def _compare(
    plan: TunePlan,
    parameters: Mapping[Arm, PolicyParameters],
    seed: int,
    sources: SwitchedSources,
    generate: Generate,
    show: Show,
) -> dict[Arm, list[Sample]]:
    """All arms on each held-out prompt, one after the other; which comes first changes."""
    samples: dict[Arm, list[Sample]] = {arm: [] for arm in plan.arms}
    for number, prompt in enumerate(plan.held_out * plan.repeats):
        for arm in _rotated(plan.arms, seed + number):
            show(f"Seed {seed}, comparing: {prompt.name}, {arm}")
            sources.use(FixedParameters(parameters[arm]))
            samples[arm].append(await generate(prompt.token_ids, plan.num_tokens))
    return samples


def _rotated(arms: Sequence[Arm], by: int) -> list[Arm]:
    first = by % len(arms)
    return [*arms[first:], *arms[:first]]


def tune_json(found: Sequence[Found], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"tuned": {"tpt_ms": ..., ...}, ...}`: medians over seeds, and what each seed gave."""
    report: dict[str, Any] = {}
    for arm in dict.fromkeys(one.arm for one in found):
        of_arm = [one for one in found if one.arm is arm]
        passes = [p for one in of_arm if (p := one.figures.draft.target_passes_per_token) is not None]
        report[arm] = {
            "tpt_ms": round(median(one.figures.tpt_ms for one in of_arm), 3),
            "tpt_ms_by_seed": {one.seed: round(one.figures.tpt_ms, 3) for one in of_arm},
            "target_passes_per_token": round(median(passes), 4) if passes else None,
            "num_trials": [one.num_trials for one in of_arm],
            "num_turns": [one.num_turns for one in of_arm],
            "parameters": [asdict(one.parameters) for one in of_arm],
        }
    report["settings"] = dict(settings)
    return report
