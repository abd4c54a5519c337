"""`pipesd bench run` and `report`: scenarios one after the other, results in a folder and on a page."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Mapping, Sequence
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
from benchmarks.harness.options import Flags, SpecBench, names_in
from benchmarks.harness.prompts import Prompt, load_datasets, tokenised
from benchmarks.harness.rivals import Rival, parse_rivals
from benchmarks.netlink.model import Configure
from benchmarks.netlink.probe import probe
from benchmarks.pairs.catalog import Catalog, draft_description, target_description
from benchmarks.reports.metrics import tables, write_summary
from benchmarks.reports.page import write_report
from benchmarks.reports.records import Description, append_record, machine, read_results
from benchmarks.scenarios.loading import Scenario, load_scenario
from benchmarks.testbed.contestants import contestants
from benchmarks.testbed.measuring import ScenarioRun
from benchmarks.testbed.meters import Meters
from benchmarks.testbed.stage import Link, Stage, raised_stage
from edge_agent.drafting import check_model
from edge_agent.settings import load_settings
from openai_gateway.cli.console import live_status
from openai_gateway.cli.processes import ServerProcess

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
    models = {name: flags.given[name] for name in ("draft", "target") if flags.given[name] is not None}
    scenarios = [msgspec.structs.replace(load_scenario(name), **models) for name in scenario]
    plan = _Plan(
        rivals=parse_rivals(names_in(policies, "--policies")),
        prompts=load_datasets(names_in(datasets, "--datasets") if datasets else None, specbench),
        num_tokens=tokens,
        num_prompts=prompts,
        num_seeds=seeds,
        out=out,
        with_traces=traces,
        edge_flags=flags.edge,
    )
    dtype = flags.given["dtype"]
    vllm_flags = [*(("--dtype", dtype) if dtype else ()), *flags.vllm]
    logs = out / "logs"
    with live_status() as show:
        catalog = Catalog(show=show)
        for each in scenarios:  # before any server is waited for
            check_model(catalog.draft(each.draft))
            catalog.target(each.target)
        out.mkdir(parents=True, exist_ok=True)
        by_target = sorted(scenarios, key=lambda each: each.target)
        with raised_stage(link) as stage:
            for name, of_target in groupby(by_target, key=lambda each: each.target):
                flags_of_target = _target_flags(name, vllm_flags)
                with stage.target(catalog.target(name), flags_of_target, logs) as target:
                    _wait(target, show)
                    with stage.far_side(_port(target), logs) as far_side:
                        _wait(far_side, show)
                        for each in of_target:
                            draft = catalog.draft(each.draft)
                            asyncio.run(_run_scenario(plan, each, draft, stage, target, far_side, show))
                            target.check_running("in the middle of the benchmark")
    console = Console(highlight=False)
    results = read_results(out)
    for each in scenarios:
        console.print(*tables(results, each.name), sep="\n")


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `pipesd bench run` wrote to.")],
) -> None:
    """Turn a folder of results into one HTML page and PNG plots."""
    print(write_report(folder))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is run in each scenario. `edge_flags` are settings of the edge agent (None: not given)."""

    rivals: Sequence[Rival]
    prompts: Mapping[str, Sequence[Prompt]]
    """All of each data set."""
    num_tokens: int
    num_prompts: int
    num_seeds: int
    out: Path
    with_traces: bool
    edge_flags: dict[str, Any]


async def _run_scenario(
    plan: _Plan,
    scenario: Scenario,
    draft: str,
    stage: Stage,
    target: ServerProcess,
    far_side: ServerProcess,
    show: Show,
) -> None:
    """Probe the path, put the rivals on it, keep what they do. Raises `CliError`, `EdgeError`."""
    out, traces = plan.out, plan.out / "traces" / scenario.name
    if plan.with_traces:
        traces.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(stage.path())
        server, far = [await path.reach(_port(process)) for process in (target, far_side)]
        show(f"{scenario.name}: probing the link")
        path.configure(Configure(scenario.path))
        probed = await probe(far)
        settings = load_settings({**plan.edge_flags, "cloud_url": f"http://{server}", "draft": draft})
        opening = contestants(
            settings,
            plan.rivals,
            gamma_s=scenario.gamma_ms / 1e3,
            far_side=far,
            trace_folder=traces if plan.with_traces else None,
        )
        ready = await stack.enter_async_context(opening)
        metered = await stack.enter_async_context(connected(settings.cloud_url, kept=False))
        described = Description(
            scenario=scenario,
            draft=draft_description(scenario.draft),
            target=target_description(scenario.target),
            link=path.description + (f" ({stage.why_proxy})" if stage.why_proxy else ""),
            probed=probed,
            num_tokens=plan.num_tokens,
            num_prompts=plan.num_prompts,
            num_seeds=plan.num_seeds,
            settings=settings.model_dump(include=_RELEVANT),
            machine=machine(),
            command=f"pipesd {' '.join(sys.argv[1:])}",
        )
        (out / f"{scenario.name}.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(described)) + b"\n"
        )
        records = out / f"{scenario.name}.jsonl"
        records.unlink(missing_ok=True)
        text = next(iter(ready.values())).pair.text
        prompts = {
            name: [
                [await tokenised(prompt, text) for prompt in prompts_of_seed(of, seed, plan.num_prompts)]
                for seed in range(plan.num_seeds)
            ]
            for name, of in plan.prompts.items()
        }
        scenario_run = ScenarioRun(scenario, ready, path, Meters(metered, target.pid), plan.num_tokens, show)
        try:
            await scenario_run.run(prompts, lambda record: append_record(records, record))
        finally:
            if records.exists():
                write_summary(out)  # of what was measured, however it ended


def prompts_of_seed(prompts: Sequence[_T], seed: int, num: int) -> list[_T]:
    """`num` prompts that no other seed has, as long as there are enough; always the same ones."""
    order = list(range(len(prompts)))
    random.Random(_PROMPT_ORDER).shuffle(order)
    return [prompts[order[(seed * num + i) % len(order)]] for i in range(num)]


def _target_flags(target: str, given: list[str]) -> list[str]:
    """Flags for models made here are those of the embedded one, which they are made from."""
    if target_description(target) == target:
        return given
    from pipesd_vllm.launch import embedded_flags, is_cpu_build

    names = frozenset(flag.partition("=")[0] for flag in given)
    ours = embedded_flags(names) if is_cpu_build() else []
    return [*ours, "--served-model-name", target, *given]


def _wait(process: ServerProcess, show: Show) -> None:
    process.wait_ready(progress=lambda s, line: show(f"Starting the {process.name} ({s:.0f} s) {line}"))


def _port(server: ServerProcess) -> int:
    port = urlsplit(server.base_url).port
    assert port is not None
    return port
