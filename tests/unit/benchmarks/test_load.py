"""Plain traffic: the same work in every round, figures out of it, and the two servers side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from benchmarks.harness import server, stock_server
from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.processes import process_cpu_s
from benchmarks.speed import load
from benchmarks.speed.gateway import instant_generator
from benchmarks.speed.load import Contestant, Plan, Round, Steps, ratio, steps_of
from openai_gateway.cli.hosting import hosted_gateway
from openai_gateway.cli.local_target import local_target
from pipesd_vllm.launch import serve

PAGE = """\
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_sum{engine="0"} 24.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 4.0
vllm:iteration_tokens_total_bucket{engine="0",le="8.0"} 6.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 7.0
vllm:iteration_tokens_total_count{engine="0"} 7.0
"""


def answer(started_s: float, *arrivals_s: float) -> TimedAnswer:
    return TimedAnswer("a", "", len(arrivals_s), started_s, arrivals_s, arrivals_s)


def measured(wall_s: float, cpu_s: float = 2.0, answers: Sequence[TimedAnswer] = ()) -> Round:
    some = answers or [answer(0.0, 0.1, 0.2, 0.4)]
    return Round(
        some, wall_s, {"python": cpu_s / 2, "VLLM::EngineCor": cpu_s / 2}, Steps(10, 30, {"8.0": 10})
    )


def test_the_work_is_the_same_in_every_round() -> None:
    """Other prompts and seeds for each client and answer; nothing of it by chance."""
    plan = Plan(clients=3, answers=2, tokens=5)
    bodies = [plan.bodies(["a", "b", "c", "d"], client) for client in range(3)]
    assert bodies == [plan.bodies(["a", "b", "c", "d"], client) for client in range(3)]
    flat = [body for of_client in bodies for body in of_client]
    assert sorted(body["seed"] for body in flat) == list(range(6))
    assert [body["prompt"] for body in bodies[0]] == ["a", "d"]
    assert {(body["max_tokens"], body["ignore_eos"]) for body in flat} == {(5, True)}


def test_steps_are_read_from_the_metrics() -> None:
    """Buckets are told apart; a server without the metric has none."""
    assert steps_of(PAGE) == Steps(7.0, 24.0, {"1.0": 4.0, "8.0": 2.0, "+Inf": 1.0})
    assert steps_of("") is None


def test_figures_of_a_round() -> None:
    """Tokens a second over all clients, TTFT from the request on, TPOT between first and last token."""
    figures = measured(2.0, answers=[answer(0.0, 0.1, 0.2, 0.4), answer(1.0, 1.3, 1.4, 1.6)]).figures()
    assert figures["tokens_per_s"] == pytest.approx(3.0)
    assert figures["ttft_p50_ms"] == pytest.approx(200.0)
    assert [figures["tpot_p50_ms"], figures["tpot_p90_ms"]] == pytest.approx([150.0, 150.0])
    assert (figures["cpu_s"], figures["steps"], figures["tokens_per_step"]) == (2.0, 10, 3.0)
    unknown = Round([answer(0.0, 0.5)], 1.0, {}, None).figures()
    assert (unknown["cpu_s"], unknown["steps"], unknown["tpot_p50_ms"]) == (None, None, None)


def test_a_ratio_and_its_interval() -> None:
    """The mean of paired ratios; pairs that all agree leave no doubt, others do."""
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0, 2.0))
    middle, low, high = ratio([1.0, 1.2, 0.9, 1.1], [1.0, 1.0, 1.0, 1.0])
    assert 0.9 <= low < middle < high <= 1.2


def test_servers_stand_side_by_side() -> None:
    """Each server's medians, the ratio to stock vLLM, and the same server against itself."""
    plan = Plan(4, 1, 3, parked=200)
    rounds = {
        "plugin": [measured(2.0, 4.0), measured(2.0, 4.0)],
        "stock": [measured(1.0), measured(1.0)],
        "stock again": [measured(1.0), measured(1.0)],
    }
    text = "\n".join(load.describe(plan, rounds))
    assert "4 clients, 1 answers of 3 tokens, 200 parked:" in text
    assert "plugin / stock: tokens_per_s 0.500 (0.500 to 0.500), cpu_s 2.000" in text
    assert "A/A, stock / stock: tokens_per_s 1.000 (1.000 to 1.000)" in text
    assert "VLLM::EngineCor 2.00" in text
    (report,) = load.load_json({plan: rounds})["load"]
    assert report["ratios"]["plugin / stock"]["cpu_s"][0] == pytest.approx(2.0)
    assert [each["cpu_s"] for each in report["rounds"]["stock"]] == [2.0, 2.0]


async def test_contestants_take_turns() -> None:
    """Every plan on every contestant `repeats` times; the warm-up does not count, the first one changes."""
    shown: list[str] = []
    async with hosted_gateway(instant_generator(16)) as url:
        contestants = {name: Contestant(url, None, os.getpid(), None) for name in ("plugin", "stock")}
        plan = Plan(clients=2, answers=2, tokens=4)
        found = await load.run_load(contestants, [plan], 2, shown.append, ["a", "b"])
    assert {name: len(rounds) for name, rounds in found[plan].items()} == {"plugin": 2, "stock": 2}
    assert all(len(each.answers) == 4 for rounds in found[plan].values() for each in rounds)
    assert [line.split(", ")[1].split(":")[0] for line in shown] == [
        *("plugin", "stock"),  # the warm-up
        *("stock", "plugin"),
        *("plugin", "stock"),
    ]


def test_cpu_seconds_by_process() -> None:
    """This process is in its own session's."""
    assert sum(process_cpu_s(os.getsid(0)).values()) > 0


@pytest.mark.parametrize("is_cpu_build", [True, False])
def test_stock_has_nothing_of_ours(is_cpu_build: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line of `pipesd serve`, but for scheduler, worker and speculation."""
    monkeypatch.setattr(serve.cpu_host, "is_cpu_build", lambda: is_cpu_build)
    given = ["org/model", "--port", "1", "--max-num-seqs", "64"]
    ours, stock = serve.vllm_arguments(given), stock_server.stock_arguments(given)
    left_out = set(ours) - set(stock)
    worker = serve.CPU_WORKER if is_cpu_build else serve.WORKER
    speculation = ours[ours.index("--speculative-config") + 1]
    assert left_out == {
        "--scheduler-cls",
        serve.SCHEDULER,
        worker,
        "--speculative-config",
        speculation,
    }
    assert stock[stock.index("--worker-cls") + 1] == (
        "benchmarks.harness.stock_worker.StockCpuWorker" if is_cpu_build else "auto"
    )


def test_stock_is_started_as_ours_is() -> None:
    """The same flags on another port, by another module."""
    ours = local_target("org/model", ["--max-num-seqs", "64"], port=1)
    stock = server.stock_server(ours)
    assert len(stock.command) == len(ours.command)
    different = [pair for pair in zip(ours.command, stock.command, strict=True) if pair[0] != pair[1]]
    port = stock.base_url.rpartition(":")[2]
    assert different == [("pipesd_vllm.launch.serve", "benchmarks.harness.stock_server"), ("1", port)]
    assert stock.log_path != ours.log_path
