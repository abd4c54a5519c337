"""`pipesd bench matrix`: sessions under random drafts against the target alone, over kinds of sampling."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks.exactness.comparison import (
    Continuation,
    Difference,
    Margin,
    Reference,
    TargetAlone,
    explained,
    near_tie_nats,
    told,
)
from benchmarks.exactness.drafts import KINDS, DraftMaker
from benchmarks.harness.clients import connected
from benchmarks.harness.options import Flags, JsonFile, NumPrompts, Prompts, Stock
from benchmarks.harness.prompts import HUMANEVAL, Prompt, TokenisedPrompt, fitting, load_prompts
from benchmarks.harness.server import RunningServer, plain_api, running_server
from benchmarks.harness.session import next_commit, opened, welcome
from benchmarks.reports.records import write_json
from edge_agent.agent import cloud_api, cloud_connector
from edge_agent.api import Sampling
from edge_agent.errors import CloudMisbehaved
from edge_agent.verifier.transport import Connector, Transport
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError
from openai_gateway.local.text.tokenizer import TargetText
from pipesd_vllm.wire import Mode, Open, Structure, StructureKind

__all__ = [
    "MATRIX",
    "Compared",
    "Matrix",
    "Run",
    "Setting",
    "batches",
    "matrix",
    "matrix_json",
    "run_session",
    "selected",
    "summary",
]

_TELLS_ALL: Final = ("--max-logprobs", "-1", "--logprobs-mode", "raw_logits")
"""For a server that is started here: it can tell all that decided a choice, in case two texts differ."""
_BATCHES: Final = (8, 1, 7, 2, 6, 3, 5, 4)
_MODES: Final = (Mode.OFFLOAD, Mode.OFFLOAD, Mode.BALANCED, Mode.LATENCY)
_PATIENCE_MS: Final = 50
_MOST_DRAFTS: Final = 12
_VERIFIABLE: Final = ("right", "right", "half", "wrong")
"""What ends each round: the server has something to check, whatever it made of the frames before."""

_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["code", "maths", "chat"]},
        "steps": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["name", "kind", "steps"],
    "additionalProperties": False,
}
_FURTHER: Final[Mapping[str, Mapping[str, Any]]] = {
    "plain": {},
    "penalties": {"presence_penalty": 0.6, "frequency_penalty": 0.4, "repetition_penalty": 1.2},
    "biased": {"min_p": 0.05, "logit_bias": {28: -100.0, 30: 1.5, 260: -2.0}},
    "json": {"structure": Structure(StructureKind.JSON_SCHEMA, json.dumps(_SCHEMA)), "ignore_eos": False},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell of the matrix."""

    temperature: float
    top_p: float
    further: str
    """What else is asked for, a key of `_FURTHER`."""

    @property
    def name(self) -> str:
        """As `--settings` takes it, such as `T=0.7,top_p=0.9,penalties`."""
        return f"T={self.temperature:g},top_p={self.top_p:g},{self.further}"

    def sampling(self, num_tokens: int, seed: int) -> Sampling:
        """Exactly `num_tokens` tokens, fewer for a form that ends; a greedy one has no seed."""
        return Sampling(
            num_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed if self.temperature else None,
            **{"ignore_eos": True, **_FURTHER[self.further]},
        )


MATRIX: Final = tuple(Setting(*cell) for cell in product((0.0, 0.7, 1.0), (1.0, 0.9), _FURTHER))
"""All cells. At temperature 0 `top_p` must not matter: its cells run like the others."""


def selected(names: Sequence[str] | None) -> tuple[Setting, ...]:
    """The cells with these names; a shorter name, such as `T=0.7`, stands for all that share its parts.

    None: all. Raises `CliError` for a name without a cell.
    """
    wanted: dict[Setting, None] = {}
    for name in names or [""]:
        parts = {part for part in name.replace(" ", "").split(",") if part}
        cells = [cell for cell in MATRIX if parts <= set(cell.name.split(","))]
        if not cells:
            known = "; ".join(cell.name for cell in MATRIX)
            raise CliError(f"No setting is called {name!r}: try one of {known}.", exit_code=2)
        wanted |= dict.fromkeys(cells)
    return tuple(wanted)


def matrix(
    flags: Flags,
    prompts: Prompts = None,
    num: NumPrompts = 20,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens to generate a prompt.")] = 96,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--settings",
            help="Only those with these parts, such as T=0.7 or T=1,top_p=0.9,penalties or T=0,plain "
            "(nothing further); may be repeated.",
            metavar="PARTS",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first prompt; each has its own.")] = 0,
    stock: Stock = False,
    json_file: JsonFile = None,
) -> None:
    """Compare sessions under random drafts with the target alone, over all kinds of sampling.

    Temperatures 0, 0.7 and 1, top_p 1 and 0.9, plain, with penalties, with min_p and biases, and with a JSON
    schema. Sessions run in batches of 1 to 8; their drafts are right, wrong, stale, doubled or out of order,
    and each session moves to a fresh connection in the middle. Exits 1 if any text differs; every difference
    is shown with how close the two tokens were. Each of the 24 settings takes some minutes on two cores. The
    target computes in float32 unless --dtype says otherwise.
    """
    flags = Flags({**flags.given, "dtype": flags.given["dtype"] or "float32"}, flags.vllm)
    sources = [load_prompts(source) for source in prompts or [HUMANEVAL]]
    with running_server(flags, _TELLS_ALL) as server, plain_api(server, stock=stock) as reference:
        chosen = selected(settings)
        if not asyncio.run(_run(server, reference, chosen, sources, num, tokens, seed, json_file)):
            raise typer.Exit(1)


async def _run(
    server: RunningServer,
    plain: tuple[str, str | None],
    chosen: Sequence[Setting],
    sources: Sequence[Sequence[Prompt]],
    num: int,
    num_tokens: int,
    seed: int,
    json_file: Path | None,
) -> bool:
    """Whether all texts were identical."""
    settings, dtype = server.settings, server.dtype
    out = Console(highlight=False, markup=False, soft_wrap=True)
    api = cloud_api(settings)
    try:
        target, text = await api.target(), TargetText(await api.tokenizer())
    finally:
        await api.close()
    room = target.max_model_len - num_tokens
    prompts = [each for source in sources for each in await fitting(source, num, text, room, out.print)]
    if not prompts:
        raise CliError("None of the prompts fits: ask for fewer --tokens, or serve with a longer context.")
    results: list[Compared] = []
    async with connected(*plain, shared=8) as client:
        # A server that is started here tells all logits.
        reference = TargetAlone(client, target.vocab_size) if server.process else TargetAlone(client)
        for setting in chosen:
            with live_status() as show:
                compared = Matrix(reference, cloud_connector(settings), num_tokens, seed, show)
                found = await compared.compare(setting, prompts)
            out.print(summary(setting.name, found))
            for each in found:
                if each.difference is not None:
                    where = f"  {each.name}, seed {each.seed}, batch of {each.batch_size}"
                    limit = near_tie_nats(dtype)
                    out.print(told(where, each.difference, each.margin, limit, text.text_of))
            results += found
            if json_file is not None:  # now: a long run may be cut short
                write_json(json_file, matrix_json(results, num_tokens, dtype))
    out.print(summary("all settings", results))
    return all(each.difference is None for each in results)


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one prompt under one setting. `margin` is None if it does not apply or is not known."""

    setting: str
    name: str
    seed: int
    batch_size: int
    drafted: int
    accepted: int
    rebuilt: bool
    difference: Difference | None = None
    margin: Margin | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Both ends, and what is asked of them."""

    reference: Reference
    connector: Connector
    num_tokens: int
    seed: int
    show: Callable[[str], None] = lambda _: None

    async def compare(self, setting: Setting, prompts: Sequence[TokenisedPrompt]) -> list[Compared]:
        """The target alone on all prompts, then sessions in batches of every size.

        Prompt i has the seed `self.seed + i`, on both sides. Raises `CliError`, `CloudError`.
        """
        samplings = [setting.sampling(self.num_tokens, self.seed + i) for i in range(len(prompts))]
        self.show(f"{setting.name}: the target alone")
        room = asyncio.Semaphore(max(_BATCHES))

        async def truth(prompt: TokenisedPrompt, sampling: Sampling) -> Continuation:
            async with room:
                return await self.reference.complete(prompt.token_ids, sampling)

        truths = await asyncio.gather(*map(truth, prompts, samplings))
        rng = random.Random(f"{setting.name} {self.seed}")
        results: list[Compared] = []

        for batch in batches(rng.sample(range(len(prompts)), len(prompts))):
            self.show(f"{setting.name}: {len(results)} of {len(prompts)} sessions compared")
            given = [
                (prompts[i].token_ids, samplings[i], truths[i].token_ids, random.Random(rng.random()))
                for i in batch
            ]
            sessions = [run_session(self.connector, *each) for each in given]
            for i, run in zip(batch, await asyncio.gather(*sessions), strict=True):
                prompt = prompts[i]
                plain, ours = (Continuation(tuple(t), "", None) for t in (truths[i].token_ids, run.tokens))
                made = await explained(self.reference, prompt.token_ids, samplings[i], plain, ours)
                counts = run.drafted, run.accepted, run.rebuilt
                results.append(Compared(setting.name, prompt.name, self.seed + i, len(batch), *counts, *made))
        return results


def batches(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """`order` in pieces of every size from 1 to 8, large and small ones in turns."""
    start = number = 0
    while start < len(order):
        size = _BATCHES[number % len(_BATCHES)]
        yield order[start : start + size]
        start, number = start + size, number + 1


@dataclass(slots=True)
class Run:
    """What the server committed, in order, and what its passes did until then."""

    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    drafted: int = 0
    accepted: int = 0
    rebuilt: bool = False


async def run_session(
    connector: Connector,
    prompt: Sequence[int],
    sampling: Sampling,
    truth: Sequence[int],
    rng: random.Random,
) -> Run:
    """A whole turn, rebuilt in its first half on a fresh connection.

    `truth` is what right drafts are taken from; `rng` decides all else. Raises `CloudError`, also for a
    stream that has a gap or stands still.
    """
    run = Run()
    for until in (rng.randint(1, sampling.max_tokens // 2), sampling.max_tokens):
        run.rebuilt = bool(run.tokens)
        async with opened(connector) as transport:
            await welcome(transport)
            mode = rng.choice(_MODES)
            await transport.send(Open(1, list(prompt), sampling, mode, _PATIENCE_MS, list(run.tokens)))
            drafts = DraftMaker(1, len(prompt), truth)
            while not run.finished and len(run.tokens) < until:
                commit = await next_commit(transport)
                expected = len(prompt) + len(run.tokens)
                if commit.base != expected:
                    raise CloudMisbehaved(f"a commit starts at position {commit.base}, not at {expected}")
                run.tokens += commit.tokens
                run.drafted += commit.drafted
                run.accepted += commit.accepted
                run.finished = commit.finish_reason is not None
                if not run.finished:
                    await _draft(transport, drafts, rng, len(run.tokens))
        if run.finished:
            break
    return run


async def _draft(transport: Transport, drafts: DraftMaker, rng: random.Random, done: int) -> None:
    """Up to two batches of any kind, then one that can be verified."""
    for kind in rng.choices(KINDS, k=rng.choice((0, 0, 1, 2))):
        for frame in drafts.frames(kind, rng.randint(1, _MOST_DRAFTS), done, verify=rng.random() < 0.5):
            await transport.send(frame)
    for frame in drafts.frames(rng.choice(_VERIFIABLE), rng.randint(2, _MOST_DRAFTS), done):
        await transport.send(frame)


def summary(name: str, results: Sequence[Compared]) -> str:
    """`identical A/B` and what the drafts went through."""
    counts = _counts(results)
    return (
        f"{name}: identical {counts['num_identical']}/{counts['num_compared']} "
        f"({counts['accepted']} of {counts['drafted']} drafts accepted, {counts['rebuilt']} sessions rebuilt)"
    )


def matrix_json(results: Sequence[Compared], num_tokens: int, dtype: str | None) -> dict[str, Any]:
    """The counts of each setting and of all, and every difference."""
    settings = dict.fromkeys(each.setting for each in results)
    return {
        **_counts(results),
        "tokens": num_tokens,
        "dtype": dtype,
        "near_tie_nats": near_tie_nats(dtype),
        "settings": {name: _counts([each for each in results if each.setting == name]) for name in settings},
        "differences": [asdict(each) for each in results if each.difference is not None],
    }


def _counts(results: Sequence[Compared]) -> dict[str, int]:
    return {
        "num_identical": sum(each.difference is None for each in results),
        "num_compared": len(results),
        "drafted": sum(each.drafted for each in results),
        "accepted": sum(each.accepted for each in results),
        "rebuilt": sum(each.rebuilt for each in results),
    }
