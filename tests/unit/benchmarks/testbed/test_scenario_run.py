"""What is written down of an answer."""

from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from benchmarks.netlink.model import LinkCounts
from benchmarks.netlink.path import EmulatedPath
from benchmarks.netlink.relay import Configure, RelayCounts
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.scenarios.loading import load_scenario
from benchmarks.testbed.contestants import Answer, Contestant
from benchmarks.testbed.meters import Meters, Reading
from benchmarks.testbed.plan import Job
from benchmarks.harness.rivals import Rival, parse_rivals
from benchmarks.testbed.measuring import ScenarioRun, quiet, to_record, with_same_text
from edge_agent.generation import GenerationStats
from openai_gateway.cli.errors import CliError

BEFORE = Reading(10, 1.0, 2.0, 5.0, 1.0, None, 900.0, 300.0)
AFTER = Reading(16, 1.5, 2.5, 6.0, 1.5, None, 910.0, 310.0)
COUNTS = RelayCounts(LinkCounts(3, 300, 0), LinkCounts(4, 400, 0))


def answer(text: str = "a", stats: GenerationStats | None = None) -> Answer:
    return Answer(text, 4, 0.1, 0.4, (0.1, 0.2, 0.4), stats, num_nav=2)


def job(name: str) -> Job:
    return Job(0, 0, "humaneval", 0, parse_rivals([name])[0])


def test_passes() -> None:
    """A drafting rival tells its own, plain streaming has the engine's steps, the draft alone none."""
    stats = GenerationStats(target_passes=3, draft_tokens_verified=5, draft_tokens_accepted=2)
    records = {
        name: to_record(
            "s", job(name), "p", answer(stats=stats if name != "cloud" else None), BEFORE, AFTER, COUNTS
        )
        for name in ("cloud", "local", "pipesd:thin")
    }
    assert {name: record.target_passes for name, record in records.items()} == {
        "cloud": 6,
        "local": 0,
        "pipesd:thin": 3,
    }
    drafting = records["pipesd:thin"].drafting
    assert drafting is not None
    assert (drafting.verified, drafting.accepted, drafting.num_nav) == (5, 2, 2)
    assert records["local"].drafting is None
    assert records["cloud"].gaps_ms == [100.0, 200.0]
    assert records["cloud"].resources.up_bytes == 300


def test_texts_are_compared_with_plain_streaming() -> None:
    """Drafting rivals alone are compared, wherever plain streaming stands in the order."""
    made = [
        (to_record("s", job(name), "p", answer(), BEFORE, AFTER, COUNTS), text)
        for name, text in (("pipesd:thin", "a"), ("adaptive:offload", "b"), ("cloud", "a"), ("local", ""))
    ]
    assert [record.same_text for record in with_same_text(made)] == [True, False, None, None]
    assert [record.same_text for record in with_same_text(made[:2])] == [None, None]


async def test_waits_until_nothing_more_comes() -> None:
    """The counts are those of a path that has become quiet."""
    steps = iter([1, 2, 3, 3, 4])

    def counts() -> RelayCounts:
        return RelayCounts(LinkCounts(next(steps)), LinkCounts())

    async def sleep(_: float) -> None:
        pass

    assert (await quiet(counts, sleep)).up.num_packets == 3


class _Flaky:
    """A contestant's place, whose first answers break off."""

    def __init__(self, num_failures: int) -> None:
        self._num_left = num_failures

    async def answer(self, task: str, prompt: Sequence[int], num_tokens: int) -> Answer:
        self._num_left -= 1
        if self._num_left >= 0:
            raise CliError("An answer broke off.")
        return answer()


class _Still:
    """A path that carries nothing."""

    def configure(self, configure: Configure) -> None:
        pass

    def counts(self) -> RelayCounts:
        return COUNTS


class _Read:
    async def read(self) -> Reading:
        return BEFORE


def flaky_run(num_failures: int) -> ScenarioRun:
    rival = parse_rivals(["local"])[0]
    contestants = cast("Mapping[Rival, Contestant]", {rival: _Flaky(num_failures)})
    meters, path = cast(Meters, _Read()), cast(EmulatedPath, _Still())
    return ScenarioRun(load_scenario("fast-edge"), contestants, path, meters, 4, lambda _: None)


async def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    """Two failures are no measurement and no end of the run; the third one ends it."""
    prompt = TokenisedPrompt("p", [1, 2])
    record, _ = await flaky_run(2)._measured(job("local"), prompt)
    assert record.policy == "local"
    with pytest.raises(CliError, match="broke off"):
        await flaky_run(3)._measured(job("local"), prompt)
