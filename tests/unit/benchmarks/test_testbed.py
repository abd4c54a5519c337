"""The testbed: meters, stages, and a run over a path that carries nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from benchmarks.harness.clients import Client, TimedAnswer
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.harness.rivals import Way, parse_rivals
from benchmarks.netlink.model import Carried, Configure
from benchmarks.reports.records import RunRecord
from benchmarks.scenarios.loading import load_scenario
from benchmarks.testbed.commands import prompts_of_seed
from benchmarks.testbed.measuring import ScenarioRun, quiet
from benchmarks.testbed.meters import Meters, Reading, used
from benchmarks.testbed.stage import Link, Stage, raised_stage
from openai_gateway.cli.errors import CliError

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
START = Reading(10, 1.0, 2.0, 5.0, 900.0, 1.0, 300.0)


@pytest.mark.parametrize(("page", "expected"), [(PAGE, (7.0, 0.25, 1.5)), ("", (0.0, 0.0, 0.0))])
async def test_meters_read_a_page_of_metrics(page: str, expected: tuple[float, ...]) -> None:
    """Steps and busy times are found, else they are zero; of a process that is gone nothing is known."""
    server = httpx.MockTransport(lambda _: httpx.Response(200, text=page))
    async with httpx.AsyncClient(base_url="http://server", transport=server) as http:
        reading = await Meters(Client(http), 2**22 + 1).read()
    assert reading[:3] == expected
    assert reading.server_cpu_s is reading.server_rss_mb is None


def test_used() -> None:
    """Differences, the busy time being that of the kind of request; what is not known stays unknown."""
    end = START._replace(session_busy_s=1.5, plain_busy_s=4.0, server_cpu_s=6.0, edge_cpu_s=1.25)
    for is_plain, busy_s in ((False, 0.5), (True, 2.0)):
        found = used(START, end, is_plain=is_plain)
        assert (found["engine_busy_s"], found["server_cpu_s"], found["edge_cpu_s"]) == (busy_s, 1.0, 0.25)
        assert found["server_rss_mb"] == 900.0
    assert used(START._replace(server_cpu_s=None), end, is_plain=True)["server_cpu_s"] is None


def test_without_privileges(tmp_path: Path) -> None:
    """Asked for, the proxy needs no namespace: servers run here, on loopback, and the reason is kept."""
    with raised_stage(Link.PROXY) as stage:
        assert stage == Stage(None, "asked for")
        target = stage.target("a/model", ["--max-model-len", "64"], tmp_path)
        assert target.health_url.startswith("http://127.0.0.1:")
        assert "a/model" in target.command
        assert target.command[target.command.index("--max-model-len") + 1] == "64"
        far = stage.far_side(8000, tmp_path)
        assert far.command[-3] == "127.0.0.1"


async def test_path_of_a_stage_without_namespaces() -> None:
    """It is the proxy's."""
    async with Stage(None, "asked for").path() as path:
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
    assert await quiet(lambda: Carried(next(steps), 0), no_sleep) == Carried(3, 0)


class _Scripted:
    """A contestant's place: `num_failures` of its measured answers break off."""

    def __init__(self, num_failures: int = 0) -> None:
        self.asked: list[tuple[Way, int]] = []
        self._num_left = num_failures

    async def answer(self, way: Way, task: str, prompt: Sequence[int], num_tokens: int) -> TimedAnswer:
        self.asked.append((way, num_tokens))
        if num_tokens == 16 and self._num_left:
            self._num_left -= 1
            raise CliError("An answer broke off.")
        return TimedAnswer("id", "text", num_tokens, 0.0, (0.1, 0.4), (0.1, 0.4))


class _Still:
    """A path that carries nothing, and meters that stand still."""

    def __init__(self) -> None:
        self.configured: list[Configure] = []

    def configure(self, configure: Configure) -> None:
        self.configured.append(configure)

    def carried(self) -> Carried:
        return Carried(300, 400)

    async def read(self) -> Reading:
        return START


async def run_of(num_failures: int) -> tuple[list[RunRecord], _Still, list[_Scripted]]:
    rivals = parse_rivals(["cloud", "vanilla:thin"])
    scripted = [_Scripted(), _Scripted(num_failures)]
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
    assert {(r.up_bytes, r.down_bytes) for r in records} == {(300, 400)}
    assert scripted[0].asked[:3] == [(Way.CLOUD, 8), (Way.CLOUD, 1), (Way.LOCAL, 1)]
    measured = [c for c in still.configured if c.elapsed_s]
    assert [c.seed for c in measured] == [0, 0, 1, 1]
    assert measured[0].elapsed_s == measured[1].elapsed_s == pytest.approx(18.0)


async def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    """Two failures are no measurement and no end of the run; the third one ends it."""
    records, _, _ = await run_of(2)
    assert len(records) == 4
    with pytest.raises(CliError, match="broke off"):
        await run_of(3)
