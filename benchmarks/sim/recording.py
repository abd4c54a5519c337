"""`pipesd bench record`: a real target's answers, and what a real draft says along them."""

from __future__ import annotations

import asyncio
import heapq
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.harness.options import Flags, NumPrompts, Prompts
from benchmarks.harness.pair import Pair, paced_drafter, started_pair
from benchmarks.harness.prompts import HUMANEVAL, TokenisedPrompt, load_prompts, tokenised
from benchmarks.harness.server import running_server
from benchmarks.pairs.catalog import Catalog, draft_description, target_description
from benchmarks.sim.agreements import CONSTRUCTED, QUESTIONS, RecordedAnswer, RecordedPair, Said, write_pair
from edge_agent.api import GenerationRequest, Sampling, SessionMode
from edge_agent.drafting import Drafter
from edge_agent.sampling import DraftToken, GreedyPicker, SampledPicker, TokenPicker
from openai_gateway.cli.console import live_status
from openai_gateway.local.text.tokenizer import TargetText

__all__ = ["constructed_answers", "record", "record_answer"]

_DETOUR: Final = 8
"""Drafts kept after a wrong one; our policies seldom draft further before they hear of it."""
_NUM_OTHERS: Final = 2
_SAMPLED_SEEDS: Final = (7,)


def record(
    flags: Flags,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the record goes (JSON).")],
    prompts: Prompts = None,
    num: NumPrompts = 4,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Most tokens of an answer.")] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Each prompt is also sampled at it; 0: not.")
    ] = 0.8,
) -> None:
    """Record what a real draft says along a real target's answers, for `pipesd bench sim` to replay.

    Without --prompts: HumanEval, ten questions of our own, and answers that were written by hand, for which
    only the draft is asked.
    """
    catalog = Catalog()
    given = {name: flags.given[name] for name in ("draft", "target")}
    made = {name: value and getattr(catalog, name)(value) for name, value in given.items()}
    flags = Flags({**flags.given, **made}, flags.vllm)
    samplings = [Sampling(tokens)]
    if temperature:
        samplings += [Sampling(tokens, temperature=temperature, seed=seed) for seed in _SAMPLED_SEEDS]
    with running_server(flags) as server, live_status() as show:
        settings = server.settings
        sources = prompts or [HUMANEVAL, str(QUESTIONS)]

        async def ask() -> list[RecordedAnswer]:
            async with started_pair(settings) as pair:
                show("Tokenising")
                chosen = [each for source in sources for each in await _chosen(source, num, pair)]
                own = [
                    await _answered(pair, prompt, category, sampling, show)
                    for sampling in samplings
                    for category, prompt in chosen
                ]
                return own if prompts else own + await constructed_answers(num, pair.text)

        answers = asyncio.run(ask())
    with live_status() as show:
        drafter = paced_drafter(settings, 0.0)
        followed = []
        try:
            for number, answer in enumerate(answers, start=1):
                show(f"Following answer {number} of {len(answers)}: {answer.name}")
                followed.append(record_answer(drafter, answer))
        finally:
            drafter.close()
    write_pair(
        out,
        RecordedPair(
            target=_described(given["target"], target_description),
            draft=_described(given["draft"], draft_description),
            answers=followed,
        ),
    )
    for category in dict.fromkeys(answer.category for answer in followed):
        of_category = [answer for answer in followed if answer.category == category]
        mean = sum(answer.agreement for answer in of_category) / len(of_category)
        print(f"{category}: {len(of_category)} answers, agreement {mean:.3f}")


async def constructed_answers(num: int, text: TargetText) -> list[RecordedAnswer]:
    """Those written by hand, the first `num` of each category; the draft's part is empty as yet."""
    answers = [
        msgspec.json.decode(line, type=_Answer).answer for line in CONSTRUCTED.read_bytes().splitlines()
    ]
    num_special = len(await text.encode_prompt(""))
    found: dict[str, list[RecordedAnswer]] = {}
    for prompt, answer in zip(load_prompts(str(CONSTRUCTED)), answers, strict=True):
        category = prompt.name.split("/")[0]
        asked, ids = await tokenised(prompt, text), await text.encode_prompt(answer)
        found.setdefault(category, []).append(
            RecordedAnswer(
                name=prompt.name,
                category=category,
                prompt=list(asked.token_ids),
                tokens=list(ids[num_special:]),
                picks=[],
                others=[],
                detours={},
                constructed=True,
            )
        )
    return [each for of_category in found.values() for each in of_category[:num]]


class _Answer(msgspec.Struct):
    answer: str


def _described(model: str | None, describe: Callable[[str], str]) -> str:
    """A path says where a model is here, its last part what it is."""
    return "embedded" if model is None else describe(Path(model).name if Path(model).exists() else model)


async def _chosen(source: str, num: int, pair: Pair) -> list[tuple[str, TokenisedPrompt]]:
    """Category and prompt; the first `num` of each category."""
    found: dict[str, list[TokenisedPrompt]] = {}
    for prompt in load_prompts(source):
        category = "code" if source == HUMANEVAL else prompt.name.split("/")[0]
        of_category = found.setdefault(category, [])
        if len(of_category) < num:
            of_category.append(await tokenised(prompt, pair.text))
    return [(category, prompt) for category, of_category in found.items() for prompt in of_category]


async def _answered(
    pair: Pair, prompt: TokenisedPrompt, category: str, sampling: Sampling, show: Callable[[str], None]
) -> RecordedAnswer:
    """The target's own tokens, the end token left out; the draft's part is empty as yet."""
    show(f"Answering {prompt.name} at temperature {sampling.temperature:g}")
    request = GenerationRequest(
        f"record-{uuid.uuid4().hex}", prompt.token_ids, sampling, mode=SessionMode.LATENCY
    )
    ids = [token async for chunk in pair.recorder.generate(request) for token in chunk.token_ids]
    stats = pair.recorder.take(request.request_id).stats
    assert stats.verified
    if len(ids) < sampling.max_tokens:
        del ids[-1:]
    return RecordedAnswer(
        name=prompt.name,
        category=category,
        temperature=sampling.temperature,
        seed=sampling.seed,
        prompt=list(prompt.token_ids),
        tokens=ids,
        picks=[],
        others=[],
        detours={},
    )


def record_answer(drafter: Drafter, answer: RecordedAnswer) -> RecordedAnswer:
    """`answer` with the draft's part. Raises `ModelError`."""
    start, picker = len(answer.prompt), _Watching(_picker(answer))
    picks: list[Said] = []
    others: list[list[int]] = []
    detours: dict[int, list[Said]] = {}
    sequence = drafter.open(answer.prompt, picker)
    try:
        for number, token in enumerate(answer.tokens):
            pick = _said(_next(drafter, sequence))
            picks.append(pick)
            others.append(picker.others)
            if pick.token_id != token:
                room = min(_DETOUR, drafter.room(sequence))
                detours[number] = [_said(_next(drafter, sequence)) for _ in range(room)]
                drafter.rewrite(sequence, start + number, [token])
    finally:
        drafter.close_sequence(sequence)
    return msgspec.structs.replace(answer, picks=picks, others=others, detours=detours)


def _picker(answer: RecordedAnswer) -> TokenPicker:
    if not answer.temperature:
        return GreedyPicker()
    sampling = Sampling(len(answer.tokens), temperature=answer.temperature, seed=answer.seed)
    return SampledPicker(sampling, len(answer.prompt))


class _Watching:
    """A `TokenPicker` that keeps what else was likely at the last pick."""

    def __init__(self, picker: TokenPicker) -> None:
        self._picker = picker
        self.others: list[int] = []

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        picked = self._picker.pick(logits, tokens)
        best = np.argpartition(logits, -_NUM_OTHERS - 1)[-_NUM_OTHERS - 1 :]
        likely = heapq.nlargest(_NUM_OTHERS + 1, best, key=lambda token: logits[token])
        self.others = [int(token) for token in likely if token != picked.token_id][:_NUM_OTHERS]
        return picked

    def rewind(self, length: int) -> None:
        self._picker.rewind(length)


def _next(drafter: Drafter, sequence: int) -> DraftToken:
    while sequence not in (drafts := drafter.draft([sequence])):
        pass  # a long prompt is evaluated in several calls
    return drafts[sequence]


def _said(draft: DraftToken) -> Said:
    return Said(draft.token_id, round(draft.probability, 3) or 0.001)
