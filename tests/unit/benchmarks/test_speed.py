"""What answers, verify rounds and the gateway cost, on scripted ends."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
import pytest

from benchmarks.harness.clients import TimedAnswer, connected
from benchmarks.harness.edge import edge_process
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.harness.recorder import Recording
from benchmarks.harness.rivals import CLOUD, LOCAL, Rival, Way, Wire
from benchmarks.speed.gateway import (
    CpuSplit,
    CrowdPlan,
    CrowdResult,
    added_in_an_answer,
    describe_cost,
    describe_cpu,
    describe_crowd,
    instant_generator,
    measure_live_cost,
    measure_pure_cost,
    run_crowd,
)
from benchmarks.speed.overhead import (
    NUM_IDLE_SESSIONS,
    Round,
    describe,
    figures_of,
    measure_idle,
    measured_rounds,
    measured_stream,
    medians,
    own_code_totals,
    own_text,
)
from benchmarks.speed.quick import QuickPlan, quick_json, run_quick
from edge_agent.api import GenerationStats
from edge_agent.errors import CloudMisbehaved, CloudUnreachable
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeConnector, FakeTransport, fake_welcome
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import hosted_gateway
from pipesd_vllm.wire import Commit, Draft, Mode, Open, fingerprint
from tests.unit.benchmarks.conftest import MakeFake


def silent(_: str) -> None:
    pass


# -- quick ----------------------------------------------------------------------------------

RIVALS = [Rival("adaptive", Wire.THIN, Mode.BALANCED), Rival(CLOUD), Rival(LOCAL)]
PLAN = QuickPlan((TokenisedPrompt("a", (1,)), TokenisedPrompt("b", (2,))), 32, 3, RIVALS)
TPT_S = {Way.COLLABORATIVE: 0.010, Way.CLOUD: 0.020, Way.LOCAL: 0.005}
STATS = GenerationStats(
    completion_tokens=32,
    target_passes=8,
    draft_tokens_sent=20,
    draft_tokens_verified=20,
    draft_tokens_accepted=15,
    uplink_draft_bytes=170,
    uplink_bytes=900,
)


class FakeAsk:
    """Gives each way its TPT; ours says something else after prompt 2."""

    def __init__(self) -> None:
        self.calls: list[tuple[Way, int, int]] = []

    async def __call__(self, way: Way, prompt: Sequence[int], num_tokens: int) -> TimedAnswer:
        self.calls.append((way, prompt[0], num_tokens))
        text = "wrong" if way is Way.COLLABORATIVE and prompt[0] == 2 else f"text {prompt[0]}"
        times_s = (0.001, TPT_S[way] * num_tokens)
        stats = STATS if way is Way.COLLABORATIVE else None
        return TimedAnswer("id", text, num_tokens, 0.0, times_s, times_s, stats)


async def test_quick() -> None:
    """All is warmed up before the first measurement; figures have the agreed names; texts are compared."""
    ask, shown = FakeAsk(), list[str]()
    found = await run_quick(PLAN, ask, shown.append)
    num_warm = len(PLAN.prompts) * len(RIVALS)
    assert {num for _, _, num in ask.calls[:num_warm]} == {8}
    assert [num for _, _, num in ask.calls[num_warm:]] == [32] * 18
    assert shown[-1].startswith("Measuring, 18 of 18: b")
    report = quick_json(found, PLAN, {"mode": "offload"})
    assert report["collaborative"] == {
        "tpt_ms": 10.0,
        "ttft_ms": 1.0,
        "acceptance_rate": 0.75,
        "target_passes_per_token": 0.25,
        "uplink_bytes_per_draft_token": 8.5,
    }
    assert report["cloud"] == {"tpt_ms": 20.0, "ttft_ms": 1.0}
    assert report["speedup"] == {"collaborative": 2.0, "cloud": 1.0, "local": 4.0}
    assert report["tpt_range_ms"]["local"] == [5.0, 5.0]
    assert report["samples"] == {"collaborative": 6, "cloud": 6, "local": 6}
    assert report["identical"] == {"num_identical": 3, "num_compared": 6}
    assert report["settings"] == {"num_tokens": 32, "repeats": 3, "prompts": ["a", "b"], "mode": "offload"}


async def test_a_hung_edge_is_not_asked_to_answer_alone() -> None:
    """It never would; collaborative and plain streaming are still compared."""
    found = await run_quick(QuickPlan(PLAN.prompts, 32, 1, RIVALS[:2]), FakeAsk(), silent)
    assert set(found) == {Way.COLLABORATIVE, Way.CLOUD}
    assert found[Way.COLLABORATIVE].num_compared == 2


# -- verify rounds --------------------------------------------------------------------------

VOCABULARY = [f"t{i}" for i in range(200)]
WELCOME = fake_welcome(fingerprint(VOCABULARY))


def transport(max_model_len: int = 4096) -> FakeTransport:
    welcome = fake_welcome(fingerprint(VOCABULARY), max_model_len=max_model_len)
    return FakeTransport(lambda tokens: 100 + len(tokens) % 7, welcome)


def ticking(step_s: float = 0.004) -> Iterator[float]:
    return itertools.count(0.0, step_s)


async def test_rounds_are_timed_one_by_one() -> None:
    """From frame to commit, as many as asked for, each from the frontier, with drafts that are right.

    Where the known text ends another turn begins; the first rounds warm up.
    """
    clock, line = ticking(), transport()
    said = [100 + (32 + number) % 7 for number in range(52)]  # room for ten rounds of four drafts a turn
    rounds = [r async for r in measured_rounds(line, 25, said, lambda: next(clock))]
    assert len(rounds) == 25
    assert all(r.wall_ms == pytest.approx(4.0) and r.step_ms == 0.0 for r in rounds)
    assert {r.num_tokens for r in rounds} == {5}
    opened = [message for message in line.sent if isinstance(message, Open)]
    assert [message.turn for message in opened] == [1, 2, 3]
    assert all(message.sampling.max_tokens <= 52 for message in opened)
    drafts = [message for message in line.sent if isinstance(message, Draft) and message.turn == 1]
    assert len({message.first for message in drafts}) == len(drafts)
    assert all(b.base > a.base for a, b in pairwise(drafts))


async def test_the_text_of_the_rounds_is_the_targets_own() -> None:
    """As long as asked for, or as the context holds."""
    assert await own_text(FakeConnector([transport()]), 30) == [100 + (32 + n) % 7 for n in range(30)]
    assert len(await own_text(FakeConnector([transport(max_model_len=40)]), 30)) == 8


async def test_streamed_tokens_are_timed_from_one_to_the_next() -> None:
    """The target decodes by itself: one frame goes up to open the turn, one to end it."""
    clock, line = ticking(), transport()
    for number in range(30):
        line.push(Commit(1, 32 + number, [5], step_ms=3.0))
    rounds = [r async for r in measured_stream(line, 20, lambda: next(clock))]
    assert len(rounds) == 20
    assert all(r.added_ms == pytest.approx(1.0) for r in rounds)
    opened, _ = line.sent
    assert isinstance(opened, Open)
    assert opened.mode is Mode.LATENCY


async def test_a_server_that_does_not_introduce_itself() -> None:
    """It is not taken for a verifier."""
    line = transport()
    await line.receive()
    line.push(Commit(1, 0, [1]))
    with pytest.raises(CloudMisbehaved):
        [_ async for _ in measured_rounds(line, 1, [])]


NOT_IDLE = {"idle_without_sessions_s": None, "idle_with_sessions_s": None}


def one(added_ms: float, own: dict[str, float] | None) -> dict[str, float | None]:
    rounds = tuple(Round(20.0 + added_ms + extra, 20.0, 0.2) for extra in (0.0, 0.0, 3.0))
    return figures_of(rounds, (Round(9.0, 8.0), Round(9.0, 8.0)), 8.5, 10.0, own)


def test_what_is_ours_and_what_is_vllms_stand_side_by_side() -> None:
    """Medians over the repeats, which one disturbed repeat does not move."""
    own = {"receive": 0.1, "schedule": 0.05, "send": 0.15}
    text = "\n".join(describe({**medians([one(ms, own) for ms in (1.5, 40.0, 1.75)]), **NOT_IDLE}, 3, 3))
    assert "1.75 ms above the engine step" in text
    assert "plain vLLM, streamed token: 0.50 ms" in text
    assert "plain vLLM, request and reply: 2.00 ms" in text
    assert "+1.25 ms to a streamed token, -0.25 ms to request and reply" in text
    assert "own code: 0.30 ms a verify round" in text
    assert "idle sessions: not measured" in text
    assert "own code: not measured" in "\n".join(describe({**medians([one(1.0, None)]), **NOT_IDLE}, 1, 3))


def test_own_code_is_read_from_the_metrics() -> None:
    """Totals in ms; rounds are those that a draft frame asked for; nothing is made up."""
    page = "# TYPE pipesd_own_seconds histogram\n" + "".join(
        f'pipesd_own_seconds_count{{part="{part}"}} {n}\npipesd_own_seconds_sum{{part="{part}"}} {s}\n'
        for part, n, s in (("receive", 4, 0.25), ("schedule", 5, 0.5), ("send", 5, 0.125))
    )
    assert own_code_totals(page) == {"receive": 250.0, "schedule": 500.0, "send": 125.0, "rounds": 4.0}
    assert own_code_totals("# TYPE other counter\nother_total 1\n") is None


async def no_sleep(_: float) -> None:
    return


async def test_idle_cost_is_measured_with_and_without_sessions() -> None:
    """All sessions are open during the second window and closed after it."""
    lines = [transport() for _ in range(NUM_IDLE_SESSIONS)]
    readings = iter([0.0, 10.0, 10.5, 12.0, 12.25])
    found = await measure_idle(FakeConnector(lines), lambda: next(readings), silent, no_sleep)
    assert found == {"idle_without_sessions_s": 0.5, "idle_with_sessions_s": 0.25}
    assert not any(line.is_open for line in lines)
    assert await measure_idle(FakeConnector([]), lambda: None, silent, no_sleep) == NOT_IDLE


async def test_a_lost_server_closes_what_was_opened() -> None:
    """Sessions opened before the failure do not stay."""
    lines = [transport() for _ in range(2)]
    with pytest.raises(CloudUnreachable):
        await measure_idle(FakeConnector(lines), lambda: 0.0, silent, no_sleep)
    assert not any(line.is_open for line in lines)


# -- the gateway ----------------------------------------------------------------------------


def answer(started_s: float, *arrivals_s: float) -> TimedAnswer:
    return TimedAnswer("one", "text", 3, started_s, arrivals_s, arrivals_s)


def test_added_in_an_answer() -> None:
    """The first token counts from both starts, later pieces from when they were given, if told apart."""
    recording = Recording(started_s=10.001, given_s=[10.1, 10.2, 10.3])
    ttft_ms, token_ms = added_in_an_answer(recording, answer(10.0, 10.103, 10.2005, 10.3002))
    assert ttft_ms == pytest.approx(4.0)
    assert token_ms == pytest.approx((0.5, 0.2))
    joined = Recording(started_s=0.0, given_s=[1.0, 2.0, 3.0])
    assert added_in_an_answer(joined, answer(0.0, 1.5, 3.5)) == (500.0, [])


async def test_both_measurements(make_fake: MakeFake) -> None:
    """On real gateways: as many samples as answers, and of the live one as pieces; a refusal is an error."""
    pure = await measure_pure_cost(instant_generator(16), 16, 3, silent)
    assert [len(ms) for ms in pure.values()] == [3, 3]
    live = await measure_live_cost(instant_generator(16), 16, 2, silent)
    assert [len(ms) for ms in live.values()] == [2 * 15, 2]
    assert all(median(ms) > 0 for ms in (pure["token_ms"], live["token_ms"]))
    with pytest.raises(CliError, match=r"HTTP 400"):
        await measure_live_cost(make_fake(""), 4, 2, silent)


CROWD = CrowdPlan(num_clients=6, at_once=2, rounds=2, num_tokens=8)


async def test_all_answers_are_counted(make_fake: MakeFake) -> None:
    """Every client gets its answers on the one connection it keeps; the warm-up is not among them."""
    generator = make_fake("hello world")
    sizes = itertools.count(100)
    started: list[int] = []

    def on_start() -> None:
        started.append(len(generator.records))

    async with hosted_gateway(generator) as url:
        result = await run_crowd(url, CROWD, lambda: next(sizes), on_start=on_start)
    assert (result.num_answers, result.num_connections, result.errors) == (12, 6, [])
    assert started == [CROWD.at_once]
    assert len(generator.records) == CROWD.at_once + 12
    assert (result.rss[0], result.rss[-1]) == (102, 114)


async def test_errors_are_kept(make_fake: MakeFake) -> None:
    """What the gateway cannot answer is counted and told."""
    generator = make_fake("hello world")

    def gone() -> None:
        generator.unreachable = CloudUnreachable("the server is gone")

    async with hosted_gateway(generator) as url:
        result = await run_crowd(url, CROWD, lambda: 1, on_start=gone)
    assert len(result.errors) == result.num_answers == 12
    assert "the server is gone" in result.errors[0]


def test_shares_of_cpu() -> None:
    """The event loop's part is of all three; without the server's figure there is none."""
    earlier, later = CpuSplit(1.0, 2.0, 10.0), CpuSplit(2.0, 5.0, 26.0)
    assert later.since(earlier) == CpuSplit(1.0, 3.0, 16.0)
    assert later.since(earlier).loop_share == pytest.approx(0.05)
    assert CpuSplit(1.0, 2.0).since(CpuSplit(0.5, 1.0)) == CpuSplit(0.5, 1.0, None)
    assert CpuSplit(1.0, 2.0).loop_share is None


def test_other_threads_are_counted_apart() -> None:
    """Work of a thread that still runs is not the main thread's."""
    process = psutil.Process()
    before = CpuSplit.of(process)
    done, leave = threading.Event(), threading.Event()

    def work() -> None:
        while CpuSplit.of(process).since(before).other_s < 0.05:  # until the system's clock has noticed
            sum(range(10_000))
        done.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    assert done.wait(60)
    used = CpuSplit.of(process).since(before)
    leave.set()
    thread.join()
    assert used.other_s >= 0.05


def test_the_measured_process(tmp_path: Path) -> None:
    """It leads to the server that is measured, and no key is on the command line."""
    (empty := tmp_path / "config.toml").touch()
    settings = EdgeSettings(cloud_url="http://gpu:8000", api_key="sk-secret", config_file=empty)
    process = edge_process(settings, tmp_path)
    assert process.command[:4] == (sys.executable, "-m", "openai_gateway.cli.main", "edge")
    assert {"http://gpu:8000", "--no-tune"} <= set(process.command)
    assert not any("sk-secret" in argument for argument in process.command)


def test_the_lines_of_the_gateway() -> None:
    """Figures with their limits; the first errors; memory is flat by its second half."""
    plan, mib = CrowdPlan(), 1 << 20
    counts, sizes = describe_crowd(plan, CrowdResult(200, (), [100 * mib, *[110 * mib] * 400]))
    assert counts == "200 clients, 4 answers at a time: 400 answers, 0 errors, 200 connections opened"
    assert "100.0 MiB at the start, 110.0 in the middle, 110.0 at the end, 110.0 at most: flat" in sizes
    lines = describe_crowd(plan, CrowdResult(200, "abcde", [100 * mib, 110 * mib, 130 * mib]))
    assert lines[1:4] == ["  a", "  b", "  c"]
    assert "growing (+18.18%" in lines[-1]
    assert describe_cpu(CpuSplit(1.0, 9.0, 30.0)).endswith("the event loop has 2.5% (limit 5%)")
    assert "leave out --cloud" in describe_cpu(CpuSplit(1.0, 9.0))
    added = {"token_ms": [0.25] * 300, "ttft_ms": [4.0] * 20}
    token, first = describe_cost("live", added)
    assert token == "added to a streamed token (live): 0.250 ms (median of 300; p90 0.250 ms); limit 0.3 ms"
    assert first == "added to the first token (live): 4.000 ms (median of 20; p90 4.000 ms); limit 5 ms"


async def test_a_client_of_a_gateway_that_is_gone() -> None:
    """The whole crowd fails at once."""
    with pytest.raises(CliError, match="does not answer"):
        await run_crowd("http://127.0.0.1:9", CROWD, lambda: 1)
    async with connected("http://127.0.0.1:9") as client:
        assert client.num_connections == 0
