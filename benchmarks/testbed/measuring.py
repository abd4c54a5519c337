"""One scenario: everybody answers every prompt over the emulated path, and all is written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from benchmarks.harness.prompts import DATASETS, TokenisedPrompt
from benchmarks.harness.rivals import Job, Rival, Way, Wire, interleaved
from benchmarks.netlink.model import Carried, Configure
from benchmarks.netlink.proxy import ProxyPath
from benchmarks.netlink.tunnel import TunPath
from benchmarks.reports.records import RunRecord, with_same_text
from benchmarks.scenarios.loading import Scenario
from benchmarks.testbed.contestants import Contestant
from benchmarks.testbed.meters import Meters, used
from edge_agent.errors import EdgeError
from openai_gateway.cli.errors import CliError

__all__ = ["Prompts", "ScenarioRun", "quiet"]

Prompts = Mapping[str, Sequence[Sequence[TokenisedPrompt]]]
"""Of each data set, those of each seed."""

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
    path: TunPath | ProxyPath
    meters: Meters
    num_tokens: int
    show: Callable[[str], None]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self, prompts: Prompts, keep: Callable[[RunRecord], None]) -> None:
        """Records come a prompt at a time, as all rivals have answered it. Raises `CliError`, `EdgeError`."""
        await self._warm_up(prompts)
        num_seeds = len(next(iter(prompts.values())))
        num_prompts = {name: len(of_seeds[0]) for name, of_seeds in prompts.items()}
        jobs = interleaved(num_seeds, num_prompts, list(self.contestants))
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
        limit_s = _MOST_S + _MOST_S_A_TOKEN * self.num_tokens
        attempt = 1
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    return await self._measure(job, prompt)
            except (CliError, EdgeError, TimeoutError) as error:
                late = isinstance(error, TimeoutError)
                what = f"took more than {limit_s:.0f} s" if late else str(error)
                if attempt == _ATTEMPTS:
                    raise CliError(f"{job.rival.label}, {prompt.name}: {what}") from error
                logger.warning("%s, %s: attempt %d: %s", prompt.name, job.rival.label, attempt, what)
                attempt += 1

    async def _measure(self, job: Job, prompt: TokenisedPrompt) -> tuple[RunRecord, str]:
        before = await self.meters.read()
        up = self.scenario.up
        # Each prompt begins one step later in the trace of rates, shortly before a change; all rivals alike.
        offset_s = (job.number + _INTO_STEP) * up.trace_step_s if up.mbit_trace else 0.0
        self.path.configure(Configure(self.scenario.path, seed=job.number, elapsed_s=offset_s))
        task = DATASETS[job.dataset]
        answer = await self.contestants[job.rival].answer(
            job.rival.way, task, prompt.token_ids, self.num_tokens
        )
        carried = await quiet(self.path.carried, self.sleep)  # bytes sent in vain leave after the answer
        record = RunRecord.of(
            job.rival,
            answer,
            scenario=self.scenario.name,
            seed=job.seed,
            dataset=job.dataset,
            prompt=prompt.name,
            up_bytes=carried.up_bytes,
            down_bytes=carried.down_bytes,
            **used(before, await self.meters.read(), is_plain=job.rival.way is Way.CLOUD),
        )
        return record, answer.text

    async def _warm_up(self, prompts: Prompts) -> None:
        """Everybody's connections, and the monitors, on the path as it will be."""
        dataset, of_seeds = next(iter(prompts.items()))
        first, num_tokens = of_seeds[0][0].token_ids, min(_WARM_UP_TOKENS, self.num_tokens)
        self.path.configure(Configure(self.scenario.path))
        for rival, contestant in self.contestants.items():
            self.show(f"{self.scenario.name}: warming up {rival.label}")
            await contestant.answer(rival.way, DATASETS[dataset], first, num_tokens)
            await quiet(self.path.carried, self.sleep)

    async def _seen(self, dataset: str, prompt: TokenisedPrompt) -> None:
        """Into the prefix caches of both models, or the first rival alone would pay for it.

        Sessions and plain requests do not share a cache on the server.
        """
        some = next(iter(self.contestants.values()))
        drafting = [rival for rival in self.contestants if rival.wire is not None]
        drafting.sort(key=lambda rival: rival.wire is not Wire.THIN)
        asked = [(some, Way.CLOUD), (some, Way.LOCAL)]
        asked += [(self.contestants[rival], rival.way) for rival in drafting[:1]]
        for contestant, way in asked:
            await contestant.answer(way, DATASETS[dataset], prompt.token_ids, 1)
        await quiet(self.path.carried, self.sleep)


async def quiet(
    carried: Callable[[], Carried], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Carried:
    """What the path has carried once nothing more comes (or a minute has passed)."""
    last = carried()
    for _ in range(int(_MOST_QUIET_WAIT_S / _QUIET_S)):
        await sleep(_QUIET_S)
        now = carried()
        if now == last:
            break
        last = now
    return last
