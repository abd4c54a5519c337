"""`pipesd bench run`: scenarios one after the other, a server for each target, results in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.datasets import load_dataset
from benchmarks.netlink.probe import Probed, probe
from benchmarks.netlink.relay import Configure
from benchmarks.netlink.spec import UNSHAPED
from benchmarks.pairs.catalog import Catalog, draft_description, target_description
from benchmarks.harness.prompts import tokenised
from benchmarks.report import machine
from benchmarks.scenarios.loading import Scenario
from benchmarks.testbed.contestants import contestants, started_edge
from benchmarks.testbed.energy import find_meter
from benchmarks.testbed.meters import Meters
from benchmarks.testbed.plan import prompts_of_seed
from benchmarks.reports.records import append_record, as_json
from benchmarks.testbed.results import Description, write_summary
from benchmarks.harness.rivals import Rival
from benchmarks.testbed.measuring import Prompts, ScenarioRun
from benchmarks.testbed.stage import (
    Link,
    Stage,
    far_side_process,
    opened_path,
    raised_stage,
    target_process,
)
from edge_agent.models import check_model
from edge_agent.settings import EdgeSettings, load_settings
from openai_gateway.cli.processes import ServerProcess
from openai_gateway.tokenization import TargetText

__all__ = ["Order", "run_order"]

Show = Callable[[str], None]

_RELEVANT: Final = {
    "draft_threads",
    "patience_ms",
    "max_ahead",
    "max_window",
    "sequence_threshold",
    "token_threshold",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. `edge_flags` are settings of the edge agent (None: not given)."""

    scenarios: Sequence[Scenario]
    rivals: Sequence[Rival]
    datasets: Sequence[str]
    specbench: Path | None
    num_tokens: int
    num_prompts: int
    num_seeds: int
    out: Path
    link: Link
    with_traces: bool
    vllm_flags: tuple[str, ...]
    edge_flags: dict[str, Any]
    command: str


def run_order(order: Order, catalog: Catalog, show: Show) -> None:
    """Raises `CliError`, `ConfigError`, `EdgeError`."""
    for scenario in order.scenarios:  # before any server is waited for
        check_model(catalog.draft(scenario.draft))
        catalog.target(scenario.target)
    order.out.mkdir(parents=True, exist_ok=True)
    logs = order.out / "logs"
    with raised_stage(order.link) as stage:
        by_target = sorted(order.scenarios, key=lambda scenario: scenario.target)
        for target, scenarios in groupby(by_target, key=lambda scenario: scenario.target):
            show(f"Preparing {target}")
            flags = _flags(target, order.vllm_flags)
            server = target_process(stage, catalog.target(target), flags, logs)
            with server, far_side_process(stage, _port(server), logs) as far_side:
                for process in (server, far_side):
                    _wait(process, show)
                running = _Running(order, catalog, show, stage, server, far_side)
                for scenario in scenarios:
                    asyncio.run(running.run(scenario))
                    server.check_running("in the middle of the benchmark")


@dataclass(frozen=True, slots=True)
class _Running:
    """An order with the processes it needs, both ready."""

    order: Order
    catalog: Catalog
    show: Show
    stage: Stage
    server: ServerProcess
    far_side: ServerProcess

    async def run(self, scenario: Scenario) -> None:
        """Probe the path, put the rivals on it, keep what they do."""
        order = self.order
        async with AsyncExitStack() as stack:
            path = await stack.enter_async_context(opened_path(self.stage))
            server, far = [await path.reach(_port(process)) for process in (self.server, self.far_side)]
            self.show(f"{scenario.name}: probing the link")
            path.configure(Configure(scenario.path))
            probed = await probe(far)
            path.configure(Configure(UNSHAPED))  # getting ready may be quick
            settings = self._settings(scenario, server)
            edge = await stack.enter_async_context(
                started_edge(settings, scenario.gamma_ms / 1e3, far, self._trace_folder(scenario))
            )
            path.configure(Configure(scenario.path))
            ready = await stack.enter_async_context(contestants(edge, order.rivals))
            meters = Meters(settings.cloud_url, self.server.pid, find_meter())
            stack.push_async_callback(meters.close)
            description = self._describe(scenario, settings, probed, path.description)
            (order.out / f"{scenario.name}.json").write_bytes(as_json(description))
            records = order.out / f"{scenario.name}.jsonl"
            records.unlink(missing_ok=True)
            prompts = await _prompts(order, next(iter(ready.values())).pair.text)
            run = ScenarioRun(scenario, ready, path, meters, order.num_tokens, self.show)
            try:
                await run.run(prompts, lambda record: append_record(records, record))
            finally:
                write_summary(order.out)  # of what was measured, however it ended

    def _settings(self, scenario: Scenario, server: str) -> EdgeSettings:
        draft = self.catalog.draft(scenario.draft)
        return load_settings({**self.order.edge_flags, "cloud_url": f"http://{server}", "draft": draft})

    def _trace_folder(self, scenario: Scenario) -> Path | None:
        if not self.order.with_traces:
            return None
        folder = self.order.out / "traces" / scenario.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _describe(self, scenario: Scenario, settings: EdgeSettings, probed: Probed, path: str) -> Description:
        order, why_proxy = self.order, self.stage.why_proxy
        return Description(
            scenario=scenario,
            draft=draft_description(scenario.draft),
            target=target_description(scenario.target),
            link=path if why_proxy is None else f"{path} ({why_proxy})",
            probed=probed,
            energy=find_meter().description,
            num_tokens=order.num_tokens,
            num_prompts=order.num_prompts,
            num_seeds=order.num_seeds,
            datasets=list(order.datasets),
            settings=settings.model_dump(include=_RELEVANT),
            machine=machine(),
            command=order.command,
        )


async def _prompts(order: Order, text: TargetText) -> Prompts:
    found = {}
    for name in order.datasets:
        prompts = load_dataset(name, order.specbench)
        of_seeds = [prompts_of_seed(prompts, seed, order.num_prompts) for seed in range(order.num_seeds)]
        found[name] = [[await tokenised(prompt, text) for prompt in chosen] for chosen in of_seeds]
    return found


def _flags(target: str, given: tuple[str, ...]) -> list[str]:
    """Flags for models made here are those of the embedded one, which they are made from."""
    if target_description(target) == target:
        return list(given)
    from pipesd_vllm import cpu_host

    names = frozenset(flag.partition("=")[0] for flag in given)
    ours = cpu_host.embedded_flags(names) if cpu_host.is_cpu_build() else []
    return [*ours, "--served-model-name", target, *given]


def _port(server: ServerProcess) -> int:
    port = urlsplit(server.base_url).port
    assert port is not None
    return port


def _wait(server: ServerProcess, show: Show) -> None:
    server.wait_ready(progress=lambda s, line: show(f"Starting the {server.name} ({s:.0f} s) {line}"))
