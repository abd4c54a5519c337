"""`pipesd bench quick`: collaborative, plain streaming and draft alone, in the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.options import Flags, JsonFile, Tokens
from benchmarks.harness.pair import started_pair
from benchmarks.harness.prompts import HUMANEVAL, TokenisedPrompt, load_prompts, tokenised
from benchmarks.harness.rivals import CLOUD, LOCAL, Rival, Way, Wire, interleaved
from benchmarks.harness.server import RunningServer, running_server
from benchmarks.reports.metrics import Row, rows, table
from benchmarks.reports.records import RunRecord, with_same_text, write_json
from edge_agent.api import SessionMode
from openai_gateway.cli.console import live_status

__all__ = ["QuickPlan", "quick", "quick_json", "run_quick"]

Ask = Callable[[Way, Sequence[int], int], Awaitable[TimedAnswer]]
"""Continues a prompt by a number of tokens, one way."""

_WARM_UP_TOKENS: Final = 8


@dataclass(frozen=True, slots=True)
class QuickPlan:
    """Each prompt is continued by `num_tokens` tokens, `repeats` times by each of `rivals`.

    They are one way each, `COLLABORATIVE` and `CLOUD` at least: their texts are compared.
    """

    prompts: Sequence[TokenisedPrompt]
    num_tokens: int
    repeats: int
    rivals: Sequence[Rival]


def quick(
    flags: Flags,
    tokens: Tokens = 128,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="How many HumanEval prompts.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often each is measured.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Measure PipeSD against plain streaming from the same server and against the draft model alone.

    All three continue the same prompts by the same number of tokens, one after the other, in one run.
    """
    with running_server(flags) as server:
        found, report = asyncio.run(_run(server, flags, tokens, prompts, repeats))
    out = Console(highlight=False)
    title = f"{prompts} prompts, {tokens} tokens each, median of {repeats} runs each"
    out.print(table(title, list(found.values())))
    ours = found[Way.COLLABORATIVE]
    out.print(f"speedup over plain streaming: {report['speedup'][Way.COLLABORATIVE]:.2f}x")
    out.print(f"identical text {ours.num_same_text}/{ours.num_compared}")
    if json_file is not None:
        write_json(json_file, report)


async def _run(
    server: RunningServer, flags: Flags, num_tokens: int, num_prompts: int, repeats: int
) -> tuple[Mapping[Way, Row], dict[str, Any]]:
    settings = server.settings
    rivals = [Rival(settings.policy, Wire.THIN, SessionMode(settings.mode)), Rival(CLOUD), Rival(LOCAL)]
    if flags.gamma_s == float("inf"):
        rivals.pop()  # a hung edge never answers alone
    with live_status() as show:
        show("Starting the edge agent")
        async with started_pair(settings, rtt_s=flags.rtt_s, gamma_s=flags.gamma_s) as pair:
            ready = [await tokenised(prompt, pair.text) for prompt in load_prompts(HUMANEVAL)[:num_prompts]]
            plan = QuickPlan(ready, num_tokens, repeats, rivals)
            found = await run_quick(plan, pair.answer, show)
            used = {
                "mode": settings.mode,
                "policy": settings.policy,
                "rtt_ms": flags.rtt_s * 1e3,
                "edge_gamma_ms": flags.gamma_s * 1e3,
                "target": pair.target.model,
                "dtype": server.dtype,
                "draft": settings.draft,
            }
    return found, quick_json(found, plan, used)


async def run_quick(plan: QuickPlan, ask: Ask, show: Callable[[str], None]) -> dict[Way, Row]:
    """Measure all ways, interleaved, after a short warm-up of each prompt each way.

    After the warm-up every prompt is in every cache, so TTFT is that of a prompt seen before. A figure is the
    median over all runs of a way. Raises what `ask` raises.
    """
    for prompt in plan.prompts:
        for rival in plan.rivals:
            show(f"Warming up: {prompt.name}, {rival.way}")
            await ask(rival.way, prompt.token_ids, min(_WARM_UP_TOKENS, plan.num_tokens))
    jobs = list(interleaved(plan.repeats, {HUMANEVAL: len(plan.prompts)}, plan.rivals))
    records: list[RunRecord] = []
    for _, of_prompt in groupby(jobs, key=lambda job: job.number):
        answers: list[tuple[RunRecord, str]] = []
        for job in of_prompt:
            prompt, way = plan.prompts[job.prompt], job.rival.way
            show(f"Measuring, {len(records) + len(answers) + 1} of {len(jobs)}: {prompt.name}, {way}")
            answer = await ask(way, prompt.token_ids, plan.num_tokens)
            record = RunRecord.of(
                job.rival,
                answer,
                scenario="quick",
                seed=job.number,  # each run is a figure of its own
                dataset=HUMANEVAL,
                prompt=prompt.name,
                target_passes=answer.num_tokens,  # without drafts a pass gives one token, by definition
            )
            answers.append((record, answer.text))
        records += with_same_text(answers)
    by_label = {row.label: row for row in rows(records)}
    return {rival.way: by_label[rival.label] for rival in plan.rivals}


def quick_json(found: Mapping[Way, Row], plan: QuickPlan, used: Mapping[str, Any]) -> dict[str, Any]:
    """`{"collaborative": {...}, "cloud": {...}, "local": {...}}`, what relates them, and the settings.

    Times in ms. The figures of drafting are with the collaborative way only, null where unknown.
    """
    ours, tpt = found[Way.COLLABORATIVE], {way: row.figures["tpt_ms"] for way, row in found.items()}
    report: dict[str, Any] = {
        way: {"tpt_ms": row.median("tpt_ms", 3), "ttft_ms": row.median("ttft_ms", 3)}
        for way, row in found.items()
    }
    report[Way.COLLABORATIVE] |= {
        "acceptance_rate": ours.median("acceptance_rate"),
        "target_passes_per_token": ours.median("target_passes_per_token"),
        "uplink_bytes_per_draft_token": ours.median("bytes_per_draft"),
    }
    return {
        **report,
        "speedup": {way: round(tpt[Way.CLOUD].median / f.median, 4) for way, f in tpt.items()},
        "tpt_range_ms": {way: [round(f.least, 3), round(f.most, 3)] for way, f in tpt.items()},
        "samples": {way: row.num_runs for way, row in found.items()},
        "identical": {"num_identical": ours.num_same_text, "num_compared": ours.num_compared},
        "settings": {
            "num_tokens": plan.num_tokens,
            "repeats": plan.repeats,
            "prompts": [prompt.name for prompt in plan.prompts],
            **used,
        },
    }
