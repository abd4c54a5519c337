"""The testbed: meters, stages, and a run over a path that carries nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.harness.rivals import Rival, parse_rivals
from benchmarks.netlink.model import LinkCounts
from benchmarks.netlink.relay import Configure, RelayCounts
from benchmarks.reports.records import RunRecord
from benchmarks.scenarios.loading import load_scenario
from benchmarks.testbed.commands import prompts_of_seed
from benchmarks.testbed.contestants import NavCounter
from benchmarks.testbed.measuring import ScenarioRun, quiet
from benchmarks.testbed.meters import Reading, engine_totals, find_energy, used
from benchmarks.testbed.stage import Link, Stage, far_side_process, opened_path, raised_stage, target_process
from edge_agent.testing.transport import FakeConnector, FakeTransport, fake_welcome
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Commit, fingerprint

PAGE = """# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 7
vllm:iteration_tokens_total_count{engine="0"} 7
vllm:iteration_tokens_total_sum{engine="0"} 40
# TYPE vllm:request_inference_time_seconds histogram
vllm:request_inference_time_seconds_count 2
vllm:request_inference_time_seconds_sum 1.5
# TYPE pipesd_step_seconds histogram
pipesd_step_seconds_count 2
pipesd_step_seconds_sum 0.25
"""
START = Reading(10, 1.0, 2.0, 5.0, 1.0, None, 900.0, 300.0)
COUNTS = RelayCounts(LinkCounts(3, 300, 0), LinkCounts(4, 400, 0))


def test_engine_totals() -> None:
    """Steps and busy times are found on a page of metrics; on an empty one they are zero."""
    assert engine_totals(PAGE) == (7.0, 0.25, 1.5)
    assert engine_totals("") == (0.0, 0.0, 0.0)


def test_used() -> None:
    """Differences, the busy time being that of the kind of request; what is not known stays unknown."""
    end = replace(START, session_busy_s=1.5, plain_busy_s=4.0, server_cpu_s=6.0, edge_cpu_s=1.25)
    for is_plain, busy_s in ((False, 0.5), (True, 2.0)):
        resources = used(START, end, up_bytes=7, down_bytes=8, is_plain=is_plain)
        assert resources.engine_busy_s == busy_s
        assert (resources.server_cpu_s, resources.edge_cpu_s) == (1.0, 0.25)
        assert resources.energy_j is None
        assert (resources.up_bytes, resources.down_bytes, resources.server_rss_mb) == (7, 8, 900.0)


def test_energy_is_measured_or_it_is_not(tmp_path: Path) -> None:
    """Counters of all packages are added up; where there is none the reason takes the place of a figure."""
    nothing = find_energy(tmp_path)
    if nothing.joules() is None:  # a machine with a GPU has a figure even so
        assert nothing.description.startswith("not measured: ")
    for name, microjoules in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:1", 1_000_000),
        ("intel-rapl:0:0", 9),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
    meter = find_energy(tmp_path)
    assert "RAPL counter of 2" in meter.description
    assert (meter.joules() or 0.0) >= 6.0


async def test_verifying_commits_are_counted() -> None:
    """A pass that checked drafts is a NAV; other commits and greetings pass by."""
    line = FakeTransport(lambda tokens: 1, fake_welcome(fingerprint(["a"])))
    line.push(Commit(1, 0, [1], drafted=4, accepted=1))
    line.push(Commit(1, 1, [1]))
    counter = NavCounter(FakeConnector([line]))
    transport = await counter.connect()
    for _ in range(3):
        await transport.receive()
    assert counter.num_nav == 1
    assert transport.is_open


def test_without_privileges(tmp_path: Path) -> None:
    """Asked for, the proxy needs no namespace: servers run here, on loopback, and the reason is kept."""
    with raised_stage(Link.PROXY) as stage:
        assert stage == Stage(None, "asked for")
        target = target_process(stage, "a/model", ["--max-model-len", "64"], tmp_path)
        assert target.health_url.startswith("http://127.0.0.1:")
        assert "a/model" in target.command
        assert target.command[target.command.index("--max-model-len") + 1] == "64"
        far = far_side_process(stage, 8000, tmp_path)
        assert far.command[-3] == "127.0.0.1"


async def test_path_of_a_stage_without_namespaces() -> None:
    """It is the proxy's."""
    async with opened_path(Stage(None, "asked for")) as path:
        assert path.server_prefix == ()
        assert "proxy" in path.description


def test_seeds_have_prompts_of_their_own() -> None:
    """No prompt is used by two seeds while there are enough, and the choice is always the same."""
    chosen = [prompts_of_seed(range(20), seed, 4) for seed in range(5)]
    assert sorted(prompt for of_seed in chosen for prompt in of_seed) == list(range(20))
    assert chosen[2] == prompts_of_seed(range(20), 2, 4)
    assert len(prompts_of_seed(range(2), 1, 3)) == 3


async def no_sleep(_: float) -> None:
    return


async def test_waits_until_nothing_more_comes() -> None:
    """The counts are those of a path that has become quiet."""
    steps = iter([1, 2, 3, 3, 4])
    assert (
        await quiet(lambda: RelayCounts(LinkCounts(next(steps)), LinkCounts()), no_sleep)
    ).up.num_packets == 3


class _Scripted:
    """A contestant's place: `num_failures` of its measured answers break off."""

    def __init__(self, rival: Rival, num_failures: int = 0) -> None:
        self.rival = rival
        self.asked: list[int] = []
        self._num_left = num_failures

    def playing(self, rival: Rival) -> _Scripted:
        return _Scripted(rival)

    async def answer(self, task: str, prompt: Sequence[int], num_tokens: int) -> tuple[TimedAnswer, int]:
        self.asked.append(num_tokens)
        if num_tokens == 16 and self._num_left:
            self._num_left -= 1
            raise CliError("An answer broke off.")
        return TimedAnswer("id", "text", num_tokens, 0.0, (0.1, 0.4), (0.1, 0.4)), 0


class _Still:
    """A path that carries nothing, and meters that stand still."""

    def __init__(self) -> None:
        self.configured: list[Configure] = []

    def configure(self, configure: Configure) -> None:
        self.configured.append(configure)

    def counts(self) -> RelayCounts:
        return COUNTS

    async def read(self) -> Reading:
        return START


async def run_of(num_failures: int) -> tuple[list[RunRecord], _Still, list[_Scripted]]:
    rivals = parse_rivals(["cloud", "vanilla:thin"])
    scripted = [_Scripted(rivals[0]), _Scripted(rivals[1], num_failures)]
    still = _Still()
    run = ScenarioRun(
        load_scenario("scenario-4"),
        cast("Any", dict(zip(rivals, scripted, strict=True))),
        cast("Any", still),
        cast("Any", still),
        16,
        lambda _: None,
        no_sleep,
    )
    records: list[RunRecord] = []
    prompts = {"humaneval": [[TokenisedPrompt(f"p{seed}", (1, 2))] for seed in range(2)]}
    await run.run(prompts, records.append)
    return records, still, scripted


async def test_a_scenario_is_run() -> None:
    """All answer each prompt, warmed up, from one place of the trace; texts and bytes are written down."""
    records, still, scripted = await run_of(0)
    assert [(r.prompt, r.policy) for r in records] == [
        ("p0", "cloud"),
        ("p0", "vanilla"),
        ("p1", "vanilla"),
        ("p1", "cloud"),
    ]
    assert [r.same_text for r in records] == [None, True, True, None]
    assert {(r.resources.up_bytes, r.resources.down_bytes) for r in records} == {(300, 400)}
    assert scripted[0].asked[0] == 8
    measured = [c for c in still.configured if c.elapsed_s]
    assert [c.seed for c in measured] == [0, 0, 1, 1]
    assert measured[0].elapsed_s == measured[1].elapsed_s == pytest.approx(18.0)


async def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    """Two failures are no measurement and no end of the run; the third one ends it."""
    records, _, _ = await run_of(2)
    assert len(records) == 4
    with pytest.raises(CliError, match="broke off"):
        await run_of(3)
