"""Runs `pipesd bench gateway` on a server that answers, and prints the figures with their limits."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from tokenizers import Tokenizer

from benchmarks.harness.processes import session_cpu_s
from benchmarks.speed.gateway_cost import Cost, Show, measure_live_cost, measure_pure_cost
from benchmarks.speed.gateway_crowd import CrowdPlan, CrowdResult, run_crowd
from benchmarks.gateway_meter import CpuSplit, ProcessMeter
from benchmarks.gateway_process import edge_process
from benchmarks.gateway_report import describe_cost, describe_cpu, describe_crowd
from benchmarks.report import machine, write_json
from benchmarks.harness.server import RunningServer
from edge_agent.fake_generator import FakeGenerator, Script, fake_tokenizer_bundle
from edge_agent.settings import EdgeSettings
from edge_agent.target import TargetInfo
from openai_gateway.cli.console import live_status

__all__ = ["gateway_run", "instant_generator"]

PURE_TOKENS: Final = 400
_TEXT: Final = "a generator that takes no time leaves the cost of the gateway alone "


async def gateway_run(server: RunningServer, plan: CrowdPlan, repeats: int, json_file: Path | None) -> None:
    """Raises `CliError`, `EdgeError`, `httpx.HTTPError`. Each figure is printed as soon as it is known."""
    out = Console(highlight=False, soft_wrap=True)
    with live_status() as show:
        crowd, cpu = await _crowd(server, plan, show)
    out.print("\n".join([*describe_crowd(plan, crowd), describe_cpu(cpu)]))
    costs = {}
    with live_status() as show:
        costs["instant"] = await measure_pure_cost(instant_generator(PURE_TOKENS), PURE_TOKENS, repeats, show)
        costs["live"] = await _live(server.settings, plan.num_tokens, repeats, show)
    out.print("\n".join(line for name, cost in costs.items() for line in describe_cost(name, cost)))
    if json_file is not None:
        write_json(json_file, _json(plan, crowd, cpu, costs))


def instant_generator(num_tokens: int) -> FakeGenerator:
    """Gives `num_tokens` tokens, one a chunk, without a delay."""
    bundle = fake_tokenizer_bundle([_TEXT])
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    token_ids = tokenizer.encode(_TEXT).ids
    script = Script(tuple((token_ids * num_tokens)[:num_tokens]))
    return FakeGenerator(
        TargetInfo("instant", 2 * num_tokens + 512, tokenizer.get_vocab_size()), bundle, script
    )


async def _crowd(server: RunningServer, plan: CrowdPlan, show: Show) -> tuple[CrowdResult, CpuSplit]:
    """With `pipesd edge` as a process of its own."""

    def cpu() -> CpuSplit:
        return meter.cpu(session_cpu_s(server.process.pid) if server.process is not None else None)

    started: list[CpuSplit] = []
    with tempfile.TemporaryDirectory() as folder, edge_process(server.settings, Path(folder)) as edge:
        show("Starting the edge agent")
        await asyncio.to_thread(edge.wait_ready)
        meter = ProcessMeter(edge.pid)
        result = await run_crowd(
            edge.base_url, None, plan, meter.rss, show, on_start=lambda: started.append(cpu())
        )
        return result, cpu().since(started[0])


async def _live(settings: EdgeSettings, num_tokens: int, repeats: int, show: Show) -> Cost:
    """With agent, gateway and client in this process, on one clock."""
    from edge_agent.agent import EdgeAgent

    agent = await EdgeAgent.start(settings)
    try:
        return await measure_live_cost(agent, num_tokens, repeats, show)
    finally:
        await agent.close()


def _json(plan: CrowdPlan, crowd: CrowdResult, cpu: CpuSplit, costs: dict[str, Cost]) -> dict[str, Any]:
    return {
        "plan": asdict(plan),
        "crowd": asdict(crowd),
        "cpu": {**asdict(cpu), "loop_share": cpu.loop_share},
        "added_ms": {name: asdict(cost) for name, cost in costs.items()},
        "machine": machine(),
    }
