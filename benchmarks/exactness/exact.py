"""`pipesd bench exact`: is the gateway's output the server's own, token for token?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console

from benchmarks.exactness.comparison import (
    Continuation,
    Difference,
    Margin,
    Reference,
    TargetAlone,
    explained,
    logprob_gap,
    near_tie_nats,
    told,
    told_logprobs,
)
from benchmarks.harness.clients import connected, sampling_body
from benchmarks.harness.options import Flags, JsonFile, NumPrompts, Prompts, Stock, Tokens
from benchmarks.harness.pair import Pair, started_pair
from benchmarks.harness.prompts import HUMANEVAL, Prompt, fitting, in_order, load_prompts
from benchmarks.harness.server import plain_api, running_server
from benchmarks.reports.records import write_json
from edge_agent.api import FinishReason, GenerationStats, Sampling
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.console import stderr
from openai_gateway.cli.errors import CliError

__all__ = ["Checked", "ExactPlan", "check_all", "exact", "exact_json"]

_LOGPROB_GAP: Final = 1e-3
"""Nats: what a batch of another shape makes of a log-probability."""


@dataclass(frozen=True, slots=True)
class ExactPlan:
    """`num` prompts that fit from each of `sources`, which are tried in their order."""

    sources: Sequence[Sequence[Prompt]]
    num: int
    sampling: Sampling
    near_tie_nats: float
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one prompt. `margin` is None if it does not apply or is too wide to be known."""

    name: str
    num_tokens: int
    difference: Difference | None
    margin: Margin | None = None
    stats: GenerationStats = field(default_factory=GenerationStats)
    """Of our answer."""
    logprob_gap: float | None = None
    """How far the log-probabilities of equal tokens are apart at most, where they were asked for."""


def exact(
    flags: Flags,
    prompts: Prompts = None,
    num: NumPrompts = 20,
    spread: Annotated[
        bool, typer.Option("--spread", help="Take them at even distances, not the first ones.")
    ] = False,
    tokens: Tokens = 128,
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Let an answer end where the model ends it.")
    ] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0)] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0)] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="0: all tokens.")] = 0,
    presence_penalty: Annotated[float, typer.Option("--presence-penalty", min=-2.0, max=2.0)] = 0.0,
    frequency_penalty: Annotated[float, typer.Option("--frequency-penalty", min=-2.0, max=2.0)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="For temperatures above 0.")] = 0,
    logprobs: Annotated[
        int | None,
        typer.Option("--logprobs", min=1, max=20, help="Compare so many a token, too.", show_default=False),
    ] = None,
    stock: Stock = False,
    near_tie: Annotated[
        float | None,
        typer.Option(
            "--near-tie",
            min=0.0,
            help="Nats below which two tokens count as a near-tie (float32: 0.0005, else 0.25).",
            show_default=False,
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Compare the gateway's output with the same server's plain /v1/completions, token for token.

    At a temperature above 0 both draw with the noise of the same seed, so the texts are to be equal, too.
    Exits 1 if any differs; every difference is shown with how close the two tokens were. Log-probabilities
    may be 0.001 apart.
    """
    sampling = Sampling(
        tokens,
        temperature,
        top_p,
        seed=seed if temperature else None,
        ignore_eos=not stop_at_eos,
        top_k=top_k,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        logprobs=logprobs,
    )
    sources = [in_order(load_prompts(source), num, spread=spread) for source in prompts or [HUMANEVAL]]
    dtype = flags.given["dtype"]
    limit = near_tie_nats(dtype) if near_tie is None else near_tie
    plan = ExactPlan(sources, num, sampling, limit, dtype)
    with running_server(flags) as server, plain_api(server, stock=stock) as api:
        identical = asyncio.run(_run(server.settings, api, plan, json_file))
    if not identical:
        raise typer.Exit(1)


async def _run(
    settings: EdgeSettings, api: tuple[str, str | None], plan: ExactPlan, json_file: Path | None
) -> bool:
    """Whether all were identical."""
    out = Console(highlight=False, markup=False, soft_wrap=True)
    stderr.print("Starting the edge agent")
    async with started_pair(settings) as pair, connected(*api) as plain:
        results = await check_all(pair, TargetAlone(plain), plan, out)
    if json_file is not None:
        write_json(json_file, exact_json(results, plan, settings, pair.target.model))
    num_identical = sum(checked.difference is None for checked in results)
    out.print(f"identical {num_identical}/{len(results)}")
    gap = widest_gap(results)
    if gap is not None:
        out.print(f"log-probabilities at most {gap:.1e} apart")
    return num_identical == len(results) and (gap or 0.0) <= _LOGPROB_GAP


async def check_all(pair: Pair, plain: Reference, plan: ExactPlan, out: Console) -> list[Checked]:
    """Check each prompt of the plan and print what came of it. Raises `CliError`, `EdgeError`."""
    room = pair.target.max_model_len - plan.sampling.max_tokens
    results: list[Checked] = []
    for source in plan.sources:
        for prompt in await fitting(source, plan.num, pair.text, room, out.print):
            expected = await plain.complete(prompt.token_ids, plan.sampling)
            ours, stats = await _through_gateway(pair, prompt.token_ids, plan.sampling)
            difference, margin = await explained(plain, prompt.token_ids, plan.sampling, expected, ours)
            gap = logprob_gap(expected, ours)
            results.append(Checked(prompt.name, len(expected.token_ids), difference, margin, stats, gap))
            out.print(
                f"{prompt.name}: identical, {len(expected.token_ids)} tokens"
                if difference is None
                else told(prompt.name, difference, margin, plan.near_tie_nats, pair.text.text_of)
            )
    if not results:
        raise CliError("None of the prompts fits: ask for fewer --tokens, or serve with a longer context.")
    return results


async def _through_gateway(
    pair: Pair, prompt: Sequence[int], sampling: Sampling
) -> tuple[Continuation, GenerationStats]:
    """The client's text, with the agent's tokens, and what they cost."""
    answer_id, choice = await pair.gateway.complete(
        prompt, {**sampling_body(sampling), "seed": sampling.seed}
    )
    made = pair.recorder.take(answer_id)
    text, reason = choice["text"], FinishReason(choice["finish_reason"])
    logprobs = () if sampling.logprobs is None else told_logprobs(choice)
    return Continuation(tuple(made.token_ids), text, reason, logprobs), made.stats


def widest_gap(results: Sequence[Checked]) -> float | None:
    """Of all log-probabilities that were compared; None if none were."""
    return max((each.logprob_gap for each in results if each.logprob_gap is not None), default=None)


def exact_json(
    results: Sequence[Checked], plan: ExactPlan, settings: EdgeSettings, target: str
) -> dict[str, Any]:
    """The counts, every difference, and what it was measured with."""
    different = [checked for checked in results if checked.difference is not None]
    num_tokens = sum(checked.stats.completion_tokens for checked in results)
    num_passes = sum(checked.stats.target_passes for checked in results)
    return {
        "identical": not different,
        "target_passes_per_token": num_passes / num_tokens if num_tokens else None,
        "num_identical": len(results) - len(different),
        "num_compared": len(results),
        "logprob_gap": widest_gap(results),
        "differences": [
            {
                "name": checked.name,
                "num_tokens": checked.num_tokens,
                "difference": asdict(checked.difference) if checked.difference is not None else None,
                "gap_nats": None if checked.margin is None else checked.margin.by_score,
            }
            for checked in different
        ],
        "near_tie_nats": plan.near_tie_nats,
        "settings": {
            **msgspec.structs.asdict(plan.sampling),
            "mode": settings.mode,
            "target": target,
            "dtype": plan.dtype,
            "draft": settings.draft,
        },
    }
