"""The run of `bench tune`, on simulated traffic without a model."""

from collections.abc import Sequence

from benchmarks.figures import DraftFigures, Sample
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.speed.tune import Found, TunePlan, run_tune, tune_json
from benchmarks.tune_arms import Arm, Search, SwitchedSources
from benchmarks.tune_run import tune_table
from edge_agent.monitor import EnvironmentSnapshot
from edge_agent.policies.base import PolicyParameters
from pipesd_vllm.protocol import Mode

BASE = PolicyParameters(0.3, 0.35, 16, 500, 8)
ARMS = (Arm.FIXED, Arm.GRID, Arm.RANDOM)
"""Bayesian optimisation has a process of its own, see test_tune_arms."""
HELD_OUT = (TokenisedPrompt("x", (8,)), TokenisedPrompt("y", (9,)))
PROMPTS = tuple(TokenisedPrompt(str(i), (i,)) for i in range(4))


class Traffic:
    """Turns of commits of four tokens; a token costs 20 ms at R1 = 0.3, more elsewhere."""

    def __init__(self, sources: SwitchedSources) -> None:
        self._sources = sources
        self.prompts: list[int] = []

    async def __call__(self, prompt: Sequence[int], num_tokens: int) -> Sample:
        self.prompts.append(prompt[0])
        source = self._sources.source("adaptive", Mode.OFFLOAD, EnvironmentSnapshot())
        total_ms = 0.0
        for _ in range(num_tokens // 4):
            cost_ms = 20.0 + 50.0 * abs(source.parameters.sequence_threshold - 0.3)
            total_ms += 4 * cost_ms
            source.observe(4, 4 * cost_ms / 1e3, 1, source.parameters)
        return Sample(total_ms / num_tokens, 5.0, DraftFigures(1.0, 0.25, 7.0))


async def found_of(seeds: Sequence[int]) -> tuple[list[Found], Traffic]:
    sources = SwitchedSources(BASE)
    traffic = Traffic(sources)
    search = Search(BASE, Mode.OFFLOAD, num_trials=9, trial_tokens=16)
    plan = TunePlan(search, PROMPTS, HELD_OUT, num_tokens=32, seeds=tuple(seeds), arms=ARMS)
    return await run_tune(plan, sources, traffic, lambda _: None), traffic


async def test_every_way_is_measured_with_what_it_found_on_other_prompts() -> None:
    """The paper's thresholds cost what they cost; searches end no worse than where they start."""
    found, traffic = await found_of([0, 1])
    assert {(one.arm, one.seed) for one in found} == {(arm, seed) for arm in ARMS for seed in (0, 1)}
    tpt_ms = {one.arm: one.figures.tpt_ms for one in found if one.seed == 1}
    assert tpt_ms[Arm.FIXED] == 50.0
    assert tpt_ms[Arm.GRID] == tpt_ms[Arm.RANDOM] == 20.0
    num_compared = len(HELD_OUT) * len(ARMS) * 2
    assert sum(prompt >= 8 for prompt in traffic.prompts) == num_compared
    assert all(one.num_trials >= 9 for one in found if one.arm is not Arm.FIXED)


async def test_the_report_has_a_median_for_each_way() -> None:
    """In the form that was agreed, with what each seed gave beside it."""
    found, _ = await found_of([0, 1, 2])
    report = tune_json(found, {"rtt_ms": 30.0})
    assert report["fixed"]["tpt_ms"] == 50.0
    assert report["grid"]["tpt_ms_by_seed"] == {0: 20.0, 1: 20.0, 2: 20.0}
    assert report["random"]["target_passes_per_token"] == 0.25
    assert report["settings"] == {"rtt_ms": 30.0}
    assert tune_table(report, found).row_count == 4
