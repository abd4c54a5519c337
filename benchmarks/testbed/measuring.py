"""One scenario: everybody answers every prompt over the emulated path, and all is written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

import msgspec

from benchmarks.datasets import DATASETS
from benchmarks.netlink.path import EmulatedPath
from benchmarks.netlink.relay import Configure, RelayCounts
from benchmarks.harness.prompts import TokenisedPrompt
from benchmarks.scenarios.loading import Scenario
from benchmarks.testbed.contestants import Answer, Contestant
from benchmarks.testbed.meters import Meters, Reading, used
from benchmarks.testbed.plan import Job, interleaved
from benchmarks.reports.records import Drafting, RunRecord
from benchmarks.harness.rivals import CLOUD, LOCAL, Rival, Wire
from edge_agent.errors import EdgeError
from openai_gateway.cli.errors import CliError

__all__ = ["Prompts", "ScenarioRun", "quiet", "to_record"]

Prompts = Mapping[str, Sequence[Sequence[TokenisedPrompt]]]
"""Of each data set, those of each seed."""
Show = Callable[[str], None]

logger = logging.getLogger("pipesd.bench")

_WARM_UP_TOKENS: Final = 8
_QUIET_S: Final = 0.5
"""Longer than TCP waits before it sends again."""
_MOST_QUIET_WAIT_S: Final = 60.0
_ATTEMPTS: Final = 3
_INTO_STEP: Final = 0.9
_MOST_S: Final = 60.0
_MOST_S_A_TOKEN: Final = 5.0


@dataclass(frozen=True, slots=True)
class ScenarioRun:
    """What is needed to run one scenario."""

    scenario: Scenario
    contestants: Mapping[Rival, Contestant]
    path: EmulatedPath
    meters: Meters
    num_tokens: int
    show: Show

    async def run(self, prompts: Prompts, keep: Callable[[RunRecord], None]) -> None:
        """Records come a prompt at a time, as all rivals have answered it. Raises `CliError`, `EdgeError`."""
        await self._warm_up(prompts)
        num_seeds = len(next(iter(prompts.values())))
        num_prompts = {name: len(of_seeds[0]) for name, of_seeds in prompts.items()}
        jobs = list(interleaved(range(num_seeds), num_prompts, list(self.contestants)))
        for _, of_prompt in groupby(jobs, key=lambda job: job.number):
            answers: list[tuple[RunRecord, str]] = []
            for job in of_prompt:
                prompt = prompts[job.dataset][job.seed][job.prompt]
                self.show(f"{self.scenario.name}: {prompt.name}, {job.rival.label}")
                if not answers:
                    await self._seen(job.dataset, prompt)
                answers.append(await self._measured(job, prompt))
            for record in with_same_text(answers):
                keep(record)

    async def _measured(self, job: Job, prompt: TokenisedPrompt) -> tuple[RunRecord, str]:
        """An answer that broke off or stood still is no measurement: it is asked for anew (and logged)."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._in_time(job, prompt)
            except (CliError, EdgeError) as error:
                logger.warning("%s, %s: attempt %d: %s", prompt.name, job.rival.label, attempt, error)
        return await self._in_time(job, prompt)

    async def _in_time(self, job: Job, prompt: TokenisedPrompt) -> tuple[RunRecord, str]:
        limit_s = _MOST_S + _MOST_S_A_TOKEN * self.num_tokens
        try:
            async with asyncio.timeout(limit_s):
                return await self._measure(job, prompt)
        except TimeoutError:
            raise CliError(f"{job.rival.label} took more than {limit_s:.0f} s for {prompt.name}.") from None

    async def _measure(self, job: Job, prompt: TokenisedPrompt) -> tuple[RunRecord, str]:
        before = await self.meters.read()
        self.path.configure(
            Configure(self.scenario.path, seed=job.number, elapsed_s=_trace_offset_s(self.scenario, job))
        )
        contestant = self.contestants[job.rival]
        answer = await contestant.answer(DATASETS[job.dataset], prompt.token_ids, self.num_tokens)
        counts = await quiet(self.path.counts)  # bytes sent in vain leave after the answer
        after = await self.meters.read()
        return to_record(self.scenario.name, job, prompt.name, answer, before, after, counts), answer.text

    async def _warm_up(self, prompts: Prompts) -> None:
        """Everybody's connections, and the monitors, on the path as it will be."""
        dataset, of_seeds = next(iter(prompts.items()))
        first = of_seeds[0][0].token_ids
        self.path.configure(Configure(self.scenario.path))
        for rival, contestant in self.contestants.items():
            self.show(f"{self.scenario.name}: warming up {rival.label}")
            await contestant.answer(DATASETS[dataset], first, min(_WARM_UP_TOKENS, self.num_tokens))
            await quiet(self.path.counts)

    async def _seen(self, dataset: str, prompt: TokenisedPrompt) -> None:
        """Into the prefix caches of both models, or the first rival alone would pay for it.

        Sessions and plain requests do not share a cache on the server.
        """
        some = next(iter(self.contestants.values()))
        drafting = [c for rival, c in self.contestants.items() if rival.wire is not None]
        drafting.sort(key=lambda contestant: contestant.rival.wire is not Wire.THIN)
        for seen in (
            Contestant.sharing(some, Rival(CLOUD)),
            Contestant.sharing(some, Rival(LOCAL)),
            *drafting[:1],
        ):
            await seen.answer(DATASETS[dataset], prompt.token_ids, 1)
        await quiet(self.path.counts)


def to_record(
    scenario: str,
    job: Job,
    prompt: str,
    answer: Answer,
    before: Reading,
    after: Reading,
    counts: RelayCounts,
) -> RunRecord:
    """All that is known of one answer."""
    rival, stats = job.rival, answer.stats
    drafting = None
    passes = after.engine_steps - before.engine_steps
    if rival.wire is not None and stats is not None:
        passes = stats.target_passes
        drafting = Drafting(
            stats.draft_tokens_sent,
            stats.draft_tokens_verified,
            stats.draft_tokens_accepted,
            stats.draft_tokens_discarded,
            answer.num_nav,
        )
    return RunRecord(
        scenario=scenario,
        seed=job.seed,
        dataset=job.dataset,
        prompt=prompt,
        policy=rival.policy,
        wire=rival.wire,
        mode=rival.mode,
        num_tokens=answer.num_tokens,
        total_s=answer.total_s,
        ttft_s=answer.ttft_s,
        gaps_ms=[round((late - early) * 1e3, 3) for early, late in pairwise(answer.arrivals_s)],
        target_passes=0.0 if rival.policy == LOCAL else passes,
        drafting=drafting,
        resources=used(
            before,
            after,
            up_bytes=counts.up.num_bytes,
            down_bytes=counts.down.num_bytes,
            is_plain=rival.policy == CLOUD,
        ),
    )


def with_same_text(answers: Sequence[tuple[RunRecord, str]]) -> list[RunRecord]:
    """The records of one prompt, those of drafting rivals compared with plain streaming, if that is there."""
    plain = [text for record, text in answers if record.policy == CLOUD]
    if not plain:
        return [record for record, _ in answers]
    return [
        record if record.wire is None else msgspec.structs.replace(record, same_text=text == plain[0])
        for record, text in answers
    ]


async def quiet(
    counts: Callable[[], RelayCounts],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> RelayCounts:
    """What the path has carried once nothing more comes (or a minute has passed)."""
    last = counts()
    for _ in range(int(_MOST_QUIET_WAIT_S / _QUIET_S)):
        await sleep(_QUIET_S)
        now = counts()
        if now == last:
            break
        last = now
    return last


def _trace_offset_s(scenario: Scenario, job: Job) -> float:
    """Each prompt begins one step later in the trace of rates, shortly before a change; all rivals alike."""
    return (job.number + _INTO_STEP) * scenario.up.trace_step_s if scenario.up.mbit_trace else 0.0
