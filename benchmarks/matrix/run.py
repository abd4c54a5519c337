"""Runs `pipesd bench matrix` on a server that answers, and prints what came of each setting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import openai
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.harness.clients import connected
from benchmarks.differences import Continuation, near_tie_nats
from benchmarks.exactness.exact import fitting
from benchmarks.exactness.matrix import Compared, Matrix
from benchmarks.matrix.report import describe, matrix_json, summary
from benchmarks.matrix.settings import Setting
from benchmarks.plain_server import PlainServer
from benchmarks.harness.prompts import Prompt, TokenisedPrompt
from benchmarks.report import machine, write_json
from edge_agent.agent_parts import cloud_api, cloud_connector
from edge_agent.generation import SamplingSettings
from edge_agent.settings import EdgeSettings
from edge_agent.target import TargetInfo
from openai_gateway.cli.console import stderr
from openai_gateway.cli.errors import CliError
from openai_gateway.tokenization import TargetText

__all__ = ["VLLM_FLAGS", "MatrixPlan", "matrix_run"]

VLLM_FLAGS: Final = ("--max-logprobs", "-1", "--logprobs-mode", "raw_logits")
"""For a server that is started here: it can tell all that decided a choice, in case two texts differ."""


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """`num` prompts that fit from each of `sources`, all under each of `settings`."""

    settings: tuple[Setting, ...]
    sources: tuple[Sequence[Prompt], ...]
    num: int
    num_tokens: int
    seed: int
    dtype: str | None


class _TargetAlone:
    """A `Reference`: the server's own API."""

    def __init__(self, client: openai.AsyncOpenAI, target: TargetInfo, *, tells_all: bool) -> None:
        self._server = PlainServer(client, target.model)
        self._num = target.vocab_size if tells_all else None

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
        return await self._server.complete(prompt, sampling)

    async def logits(self, prefix: Sequence[int]) -> Mapping[int, float]:
        return await self._server.most_likely(prefix, self._num)


async def matrix_run(
    settings: EdgeSettings, plan: MatrixPlan, json_file: Path | None, *, tells_all: bool
) -> bool:
    """Whether all texts were identical. `tells_all`: the server runs with `VLLM_FLAGS`.

    Raises `CliError`, `EdgeError`.
    """
    out = Console(highlight=False, markup=False, soft_wrap=True)
    key = settings.cloud_key
    connector = cloud_connector(settings)
    results: list[Compared] = []
    async with _target(settings) as (target, text), connected(f"{settings.cloud_url}/v1", key) as client:
        prompts = await _prompts(plan, text, target.max_model_len, out)
        reference = _TargetAlone(client, target, tells_all=tells_all)
        matrix = Matrix(reference, connector, plan.num_tokens, plan.seed)
        with _progress(len(plan.settings) * len(prompts)) as progress:
            [task] = progress.task_ids
            for setting in plan.settings:
                progress.update(task, description=setting.name)
                counted = replace(matrix, advance=lambda: progress.advance(task, 0.5))
                found = await counted.compare(setting, prompts)
                _print(setting, found, plan, text, out)
                results += found
                if json_file is not None:  # now: a long run may be cut short
                    report = matrix_json(results, plan.num_tokens, plan.dtype)
                    write_json(json_file, {**report, "machine": machine()})
    out.print(summary("all settings", results))
    return all(each.difference is None for each in results)


@asynccontextmanager
async def _target(settings: EdgeSettings) -> AsyncIterator[tuple[TargetInfo, TargetText]]:
    api = cloud_api(settings)
    try:
        yield await api.target(), TargetText(await api.tokenizer())
    finally:
        await api.close()


async def _prompts(
    plan: MatrixPlan, text: TargetText, max_model_len: int, out: Console
) -> list[TokenisedPrompt]:
    chosen: list[TokenisedPrompt] = []
    for source in plan.sources:
        num_before = len(chosen)
        async with aclosing(fitting(source, text, max_model_len - plan.num_tokens, out.print)) as prompts:
            async for prompt in prompts:
                chosen.append(prompt)
                if len(chosen) - num_before == plan.num:
                    break
    if not chosen:
        raise CliError("None of the prompts fits: ask for fewer --tokens, or serve with a longer context.")
    return chosen


def _print(
    setting: Setting, found: Sequence[Compared], plan: MatrixPlan, text: TargetText, out: Console
) -> None:
    def decode(token: int) -> str:
        detokenizer = text.detokenizer(())
        return detokenizer.push((token,)) + detokenizer.flush()

    out.print(summary(setting.name, found))
    for compared in found:
        if compared.difference is not None:
            out.print(describe(compared, near_tie_nats(plan.dtype), decode))


@contextmanager
def _progress(num_texts: int) -> Iterator[Progress]:
    """A bar with one task, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        progress.add_task("", total=num_texts)
        yield progress
