"""The run of `bench quick`, with measuring faked."""

from collections.abc import Sequence

import pytest

from benchmarks.conditions import Conditions
from benchmarks.figures import Sample, Way
from benchmarks.harness.pair import Measured
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.speed.quick import WARM_UP_TOKENS, QuickPlan, quick_json, run_quick
from openai_gateway.cli.errors import CliError

PLAN = QuickPlan((TokenisedPrompt("a", (1,)), TokenisedPrompt("b", (2,))), num_tokens=32, repeats=3)
TPT_MS = {Way.COLLABORATIVE: 10.0, Way.CLOUD: 20.0, Way.LOCAL: 5.0}


class FakeMeasure:
    """Gives each way its TPT; ours says something else after prompt 2."""

    def __init__(self) -> None:
        self.calls: list[tuple[Way, int, int]] = []

    async def __call__(self, way: Way, prompt: Sequence[int], num_tokens: int) -> Measured:
        self.calls.append((way, prompt[0], num_tokens))
        text = "wrong" if way is Way.COLLABORATIVE and prompt[0] == 2 else f"text {prompt[0]}"
        return Measured(Sample(TPT_MS[way], 1.0), text)


async def test_run() -> None:
    """All is warmed up before the first measurement; texts are compared prompt by prompt."""
    measure, shown = FakeMeasure(), list[str]()
    result = await run_quick(PLAN, measure, shown.append)
    assert {way: figures.tpt_ms for way, figures in result.figures.items()} == TPT_MS
    assert (result.num_identical, result.num_compared) == (3, 6)
    num_warm = len(PLAN.prompts) * len(Way)
    assert [num for _, _, num in measure.calls[:num_warm]] == [WARM_UP_TOKENS] * num_warm
    assert [num for _, _, num in measure.calls[num_warm:]] == [32] * 18
    assert shown[-1].startswith("Measuring, 18 of 18: b")


async def test_a_hung_edge_is_not_asked_to_answer_alone() -> None:
    """It never would; collaborative and plain streaming are still compared."""
    hung, measure = Conditions(gamma_s=float("inf")), FakeMeasure()
    plan = QuickPlan(PLAN.prompts, num_tokens=32, repeats=1, ways=hung.ways)
    result = await run_quick(plan, measure, lambda _: None)
    assert set(result.figures) == {Way.COLLABORATIVE, Way.CLOUD}
    assert Way.LOCAL not in {way for way, _, _ in measure.calls}
    assert result.num_compared == 2
    assert Conditions(gamma_s=0.15).ways == tuple(Way)


async def test_json() -> None:
    """The figures come with what they were measured with."""
    result = await run_quick(PLAN, FakeMeasure(), lambda _: None)
    report = quick_json(result, PLAN, {"mode": "offload"})
    assert report["ratio"] == {"collaborative": 0.5, "cloud": 1.0, "local": 0.25}
    assert report["identical"] == {"num_identical": 3, "num_compared": 6}
    assert report["settings"] == {"num_tokens": 32, "repeats": 3, "prompts": ["a", "b"], "mode": "offload"}


async def test_a_failure_ends_the_run() -> None:
    """No figure is made of half a comparison."""

    async def fail(way: Way, prompt: Sequence[int], num_tokens: int) -> Measured:
        raise CliError("the server is gone")

    with pytest.raises(CliError, match="gone"):
        await run_quick(PLAN, fail, lambda _: None)
