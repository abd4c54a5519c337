"""`pipesd bench gateway`: the gateway under many clients, and what it adds to an answer."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks.harness.options import Flags, JsonFile
from benchmarks.harness.server import RunningServer, running_server
from benchmarks.reports.records import write_json
from benchmarks.speed.gateway_cost import (
    Cost,
    Show,
    Spread,
    instant_generator,
    measure_live_cost,
    measure_pure_cost,
)
from benchmarks.speed.gateway_crowd import (
    FLAT_SHARE,
    CpuSplit,
    CrowdPlan,
    CrowdResult,
    ProcessMeter,
    run_crowd,
)
from edge_agent.settings import ENV_PREFIX, EdgeSettings
from openai_gateway.cli.console import live_status
from openai_gateway.cli.processes import ServerProcess, free_port

__all__ = ["describe_cost", "describe_cpu", "describe_crowd", "edge_process", "gateway"]

_HOST: Final = "127.0.0.1"
_PURE_TOKENS: Final = 400
_MIB: Final = 1 << 20
_SHOWN_ERRORS: Final = 3
_MAX_LOOP_SHARE: Final = 0.05
_MAX_TOKEN_MS: Final = 0.3
_MAX_TTFT_MS: Final = 5.0
"""What the gateway may take of all CPU and add to an answer, medians."""


def gateway(
    flags: Flags,
    clients: Annotated[
        int, typer.Option("--clients", min=1, help="Clients that keep their connection.")
    ] = 200,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Answers under way at a time.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Answers for each client.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens of each answer.")] = 16,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Answers to measure the cost on.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """Measure errors, memory and CPU of the gateway under many clients, and what it adds to a token.

    The real stack: a server, and `pipesd edge` as a process of its own. The CPU of the event loop's
    thread (gateway, session logic, network) is counted apart from the drafting in the same process.
    """
    plan = CrowdPlan(clients, at_once, rounds, tokens)
    with running_server(flags) as server:
        asyncio.run(_run(server, plan, repeats, json_file))


async def _run(server: RunningServer, plan: CrowdPlan, repeats: int, json_file: Path | None) -> None:
    """Each figure is printed as soon as it is known."""
    from edge_agent.agent import EdgeAgent

    out = Console(highlight=False, soft_wrap=True)
    with live_status() as show:
        crowd, cpu = await _crowd(server, plan, show)
    out.print("\n".join([*describe_crowd(plan, crowd), describe_cpu(cpu)]))
    costs = {}
    with live_status() as show:
        instant = instant_generator(_PURE_TOKENS)
        costs["instant"] = await measure_pure_cost(instant, _PURE_TOKENS, repeats, show)
        agent = await EdgeAgent.start(
            server.settings
        )  # with gateway and client in this process, on one clock
        try:
            costs["live"] = await measure_live_cost(agent, plan.num_tokens, repeats, show)
        finally:
            await agent.close()
    out.print("\n".join(line for name, cost in costs.items() for line in describe_cost(name, cost)))
    if json_file is not None:
        report = {
            "plan": asdict(plan),
            "crowd": asdict(crowd),
            "cpu": {**asdict(cpu), "loop_share": cpu.loop_share},
            "added_ms": {name: asdict(cost) for name, cost in costs.items()},
        }
        write_json(json_file, report)


async def _crowd(server: RunningServer, plan: CrowdPlan, show: Show) -> tuple[CrowdResult, CpuSplit]:
    """With `pipesd edge` as a process of its own."""
    with tempfile.TemporaryDirectory() as folder, edge_process(server.settings, Path(folder)) as edge:
        show("Starting the edge agent")
        await asyncio.to_thread(edge.wait_ready)
        meter = ProcessMeter(edge.pid)
        started: list[CpuSplit] = []
        result = await run_crowd(
            edge.base_url, plan, meter.rss, show, lambda: started.append(meter.cpu(server.cpu_s()))
        )
        return result, meter.cpu(server.cpu_s()).since(started[0])


def edge_process(settings: EdgeSettings, log_dir: Path) -> ServerProcess:
    """The edge agent and its gateway on a free loopback port, not started yet; it asks for no key.

    It drafts as `settings` say, without tuning. Keys travel in the environment, which `ps` does not show.
    """
    port = free_port(_HOST)
    arguments = ["edge", "--no-tune", "--host", _HOST, "--port", str(port), "--fallback", "error"]
    arguments += ["--cloud", settings.cloud_url, "--draft", settings.draft]
    arguments += ["--mode", settings.mode, "--policy", settings.policy]
    asked_key = f"{ENV_PREFIX}GATEWAY_API_KEY"
    environment = {name: value for name, value in os.environ.items() if name != asked_key}
    if settings.api_key is not None:
        environment[f"{ENV_PREFIX}API_KEY"] = settings.api_key.get_secret_value()
    return ServerProcess(
        [sys.executable, "-m", "openai_gateway.cli.main", *arguments],
        health_url=f"http://{_HOST}:{port}/health",
        log_path=log_dir / f"edge-{port}.log",
        env=environment,
        name="edge agent",
    )


def describe_crowd(plan: CrowdPlan, crowd: CrowdResult) -> list[str]:
    """Errors, connections and memory."""
    lines = [
        f"{plan.num_clients} clients, {plan.at_once} answers at a time: {crowd.num_answers} answers, "
        f"{len(crowd.errors)} errors, {crowd.num_connections} connections opened"
    ]
    lines += [f"  {error}" for error in crowd.errors[:_SHOWN_ERRORS]]
    memory = crowd.memory
    if memory is None:
        return [*lines, "memory: not measured (too few answers)"]
    sizes = (memory.start, memory.middle, memory.end, memory.most)
    start, middle, end, most = (size / _MIB for size in sizes)
    flat = "flat" if memory.is_flat else "growing"
    return [
        *lines,
        f"memory of the process: {start:.1f} MiB at the start, {middle:.1f} in the middle, {end:.1f} at the "
        f"end, {most:.1f} at most: {flat} ({memory.growth:+.2%} in the second half; limit {FLAT_SHARE:.0%})",
    ]


def describe_cpu(cpu: CpuSplit) -> str:
    """The event loop's share of all CPU."""
    parts = f"event loop (gateway and sessions) {cpu.loop_s:.1f} s, drafting {cpu.other_s:.1f} s"
    if cpu.loop_share is None:
        return f"CPU: {parts}; its share: not measured (needs a server started here: leave out --cloud)"
    return (
        f"CPU: {parts}, server {cpu.server_s:.1f} s: the event loop has {cpu.loop_share:.1%} "
        f"(limit {_MAX_LOOP_SHARE:.0%})"
    )


def describe_cost(name: str, cost: Cost) -> list[str]:
    """What HTTP and gateway add, on the generator called `name`."""

    def line(what: str, samples: Spread, limit_ms: float) -> str:
        spread = f"{samples.median:.3f} ms (median of {samples.num}; p90 {samples.p90:.3f} ms)"
        return f"added to {what} ({name}): {spread}; limit {limit_ms:g} ms"

    return [
        line("a streamed token", cost.token_ms, _MAX_TOKEN_MS),
        line("the first token", cost.ttft_ms, _MAX_TTFT_MS),
    ]
