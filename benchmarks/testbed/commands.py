"""`pipesd bench run` and `report`: scenarios one after the other, results in a folder and on a page."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console

from benchmarks.harness.clients import connected
from benchmarks.harness.options import Flags, SpecBench
from benchmarks.harness.prompts import available, find_specbench, load_dataset, tokenised
from benchmarks.harness.rivals import Rival, parse_rivals
from benchmarks.netlink.model import UNSHAPED
from benchmarks.netlink.probe import Probed, probe
from benchmarks.netlink.relay import Configure
from benchmarks.pairs.catalog import Catalog, draft_description, target_description
from benchmarks.pairs.listing import pairs_folder
from benchmarks.reports.metrics import write_summary
from benchmarks.reports.page import write_report
from benchmarks.reports.records import Description, append_record, machine, read_results
from benchmarks.reports.tables import tables
from benchmarks.scenarios.loading import Scenario, load_scenario
from benchmarks.testbed.contestants import contestants, started_edge
from benchmarks.testbed.measuring import Prompts, ScenarioRun
from benchmarks.testbed.meters import Meters, find_energy
from benchmarks.testbed.stage import (
    Link,
    Stage,
    far_side_process,
    opened_path,
    raised_stage,
    target_process,
)
from edge_agent.drafting.models import check_model
from edge_agent.settings import EdgeSettings, load_settings
from openai_gateway.cli.console import live_status
from openai_gateway.cli.processes import ServerProcess
from openai_gateway.local.text.tokenizer import TargetText

__all__ = ["prompts_of_seed", "report", "run"]

Show = Callable[[str], None]
_T = TypeVar("_T")

_PROMPT_ORDER: Final = 20
_RELEVANT: Final = {
    "draft_threads",
    "patience_ms",
    "max_ahead",
    "max_window",
    "sequence_threshold",
    "token_threshold",
}


def run(
    flags: Flags,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")],
    scenario: Annotated[
        list[str],
        typer.Option(
            "--scenario",
            metavar="NAME",
            help="Name (NAME-40: at 40 Mbit/s up) or TOML file; may be repeated.",
        ),
    ],
    policies: Annotated[
        str,
        typer.Option(
            "--policies",
            metavar="A,B",
            help="cloud, local, vanilla, hsl, edgellm, pipesd, adaptive, or a variant such as pipesd:thin, "
            "adaptive:offload.",
        ),
    ] = "cloud,local,vanilla,hsl,edgellm,pipesd,adaptive",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens to generate a prompt.")] = 64,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repetitions, each with other prompts.")] = 3,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of each data set, a seed.")] = 2,
    datasets: Annotated[
        str | None,
        typer.Option("--datasets", metavar="A,B", help="humaneval, gsm8k.", show_default=False),
    ] = None,
    specbench: SpecBench = None,
    link: Annotated[
        Link, typer.Option("--link", help="tun (needs root), proxy, or auto: the first that works.")
    ] = Link.AUTO,
    traces: Annotated[
        bool, typer.Option("--traces", help="Keep the pipeline's events in DIR/traces.")
    ] = False,
) -> None:
    """Run every rival over an emulated link with real engines; results go into a folder.

    Thresholds and bounds are those of our own policy; the others have theirs from the literature.
    """
    file = find_specbench(specbench)
    models = {name: flags.given[name] for name in ("draft", "target") if flags.given[name] is not None}
    dtype = flags.given["dtype"]
    order = _Order(
        scenarios=[msgspec.structs.replace(load_scenario(name), **models) for name in scenario],
        rivals=parse_rivals(policies.split(",")),
        datasets=available(datasets.split(",") if datasets else None, file),
        specbench=file,
        num_tokens=tokens,
        num_prompts=prompts,
        num_seeds=seeds,
        out=out,
        link=link,
        with_traces=traces,
        vllm_flags=(*(("--dtype", dtype) if dtype else ()), *flags.vllm),
        edge_flags=flags.edge,
        command=f"pipesd bench {' '.join(sys.argv[sys.argv.index('run') :])}" if "run" in sys.argv else "",
    )
    with live_status() as show:
        _run_order(order, Catalog(pairs_folder(), show), show)
    console = Console(highlight=False)
    for table in tables(read_results(out), [s.name for s in order.scenarios]):
        console.print(table)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `pipesd bench run` wrote to.")],
) -> None:
    """Turn a folder of results into one HTML page and PNG plots."""
    print(write_report(folder))


@dataclass(frozen=True, slots=True)
class _Order:
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


def _run_order(order: _Order, catalog: Catalog, show: Show) -> None:
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
            flags = _target_flags(target, order.vllm_flags)
            server = target_process(stage, catalog.target(target), flags, logs)
            with server, far_side_process(stage, _port(server), logs) as far_side:
                for process in (server, far_side):
                    name = process.name
                    process.wait_ready(
                        progress=lambda s, line, name=name: show(f"Starting the {name} ({s:.0f} s) {line}")  # type: ignore[misc]
                    )
                running = _Running(order, catalog, show, stage, server, far_side)
                for scenario in scenarios:
                    asyncio.run(running.run(scenario))
                    server.check_running("in the middle of the benchmark")


@dataclass(frozen=True, slots=True)
class _Running:
    """An order with the processes it needs, both ready."""

    order: _Order
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
            draft = self.catalog.draft(scenario.draft)
            settings = load_settings({**order.edge_flags, "cloud_url": f"http://{server}", "draft": draft})
            edge = await stack.enter_async_context(
                started_edge(settings, scenario.gamma_ms / 1e3, far, self._trace_folder(scenario))
            )
            path.configure(Configure(scenario.path))
            ready = await stack.enter_async_context(contestants(edge, order.rivals))
            energy = find_energy()
            metered = await stack.enter_async_context(connected(settings.cloud_url, kept=False))
            described = self._describe(scenario, settings, probed, path.description, energy.description)
            text = msgspec.json.format(msgspec.json.encode(described))
            (order.out / f"{scenario.name}.json").write_bytes(text + b"\n")
            records = order.out / f"{scenario.name}.jsonl"
            records.unlink(missing_ok=True)
            prompts = await _prompts(order, next(iter(ready.values())).pair.text)
            meters = Meters(metered, self.server.pid, energy)
            scenario_run = ScenarioRun(scenario, ready, path, meters, order.num_tokens, self.show)
            try:
                await scenario_run.run(prompts, lambda record: append_record(records, record))
            finally:
                if records.exists():
                    write_summary(order.out)  # of what was measured, however it ended

    def _trace_folder(self, scenario: Scenario) -> Path | None:
        if not self.order.with_traces:
            return None
        folder = self.order.out / "traces" / scenario.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _describe(
        self, scenario: Scenario, settings: EdgeSettings, probed: Probed, path: str, energy: str
    ) -> Description:
        order, why_proxy = self.order, self.stage.why_proxy
        return Description(
            scenario=scenario,
            draft=draft_description(scenario.draft),
            target=target_description(scenario.target),
            link=path if why_proxy is None else f"{path} ({why_proxy})",
            probed=probed,
            energy=energy,
            num_tokens=order.num_tokens,
            num_prompts=order.num_prompts,
            num_seeds=order.num_seeds,
            datasets=list(order.datasets),
            settings=settings.model_dump(include=_RELEVANT),
            machine=machine(),
            command=order.command,
        )


async def _prompts(order: _Order, text: TargetText) -> Prompts:
    found = {}
    for name in order.datasets:
        prompts = load_dataset(name, order.specbench)
        of_seeds = [prompts_of_seed(prompts, seed, order.num_prompts) for seed in range(order.num_seeds)]
        found[name] = [[await tokenised(prompt, text) for prompt in chosen] for chosen in of_seeds]
    return found


def prompts_of_seed(prompts: Sequence[_T], seed: int, num: int) -> list[_T]:
    """`num` prompts that no other seed has, as long as there are enough; always the same ones."""
    order = list(range(len(prompts)))
    random.Random(_PROMPT_ORDER).shuffle(order)
    return [prompts[order[(seed * num + i) % len(order)]] for i in range(num)]


def _target_flags(target: str, given: tuple[str, ...]) -> list[str]:
    """Flags for models made here are those of the embedded one, which they are made from."""
    if target_description(target) == target:
        return list(given)
    from pipesd_vllm.launch import embedded_flags, is_cpu_build

    names = frozenset(flag.partition("=")[0] for flag in given)
    ours = embedded_flags(names) if is_cpu_build() else []
    return [*ours, "--served-model-name", target, *given]


def _port(server: ServerProcess) -> int:
    port = urlsplit(server.base_url).port
    assert port is not None
    return port
