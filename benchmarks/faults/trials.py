"""Rounds of answers with a fault in their middle, and the table of what came of them."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.faults.answers import ASKS, Answer, Ask, Expected, Verdict, judge, read, shared_start
from benchmarks.faults.kinds import FAULTS, Fault
from benchmarks.faults.stage import Stage
from edge_agent.api import Fallback

__all__ = ["FINDINGS", "Row", "Trials", "table"]

Show = Callable[[str], None]

FINDINGS: Final = (Verdict.DIFFERING, Verdict.LOST, Verdict.DOUBLED, Verdict.UNTYPED)
_BEGUN: Final = 3
"""Pieces of text that an answer has brought when the fault may strike."""
_OVER_S: Final = 180.0
"""How long answers may go on once all is whole again."""


@dataclass(slots=True)
class Row:
    """What came of one fault. Times in seconds."""

    fault: str
    num_rounds: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    """Of answers that were under way when it struck."""
    num_over: int = 0
    """Answers that ended before it struck."""
    added_s: list[float] = field(default_factory=list)
    """How much longer the whole answers took than undisturbed ones."""
    gaps_s: list[float] = field(default_factory=list)
    """The longest time between two pieces of each whole answer."""
    usual_s: dict[str, float] = field(default_factory=dict)
    """An undisturbed answer's, by what is asked."""
    leaked: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def num_findings(self) -> int:
        return sum(self.verdicts[kind] for kind in FINDINGS) + len(self.leaked)

    def as_json(self) -> dict[str, Any]:
        return {
            "fault": self.fault,
            "rounds": self.num_rounds,
            "under_way": self.verdicts.total(),
            **{str(verdict): self.verdicts[verdict] for verdict in Verdict},
            "leaked": self.leaked,
            "added_p50_s": _quantile(self.added_s, 0.5),
            "added_p95_s": _quantile(self.added_s, 0.95),
            "gap_p50_s": _quantile(self.gaps_s, 0.5),
            "gap_p95_s": _quantile(self.gaps_s, 0.95),
            "usual_s": self.usual_s,
            "findings": self.findings,
        }


@dataclass(slots=True)
class Trials:
    """Faults on one stage. `num_chats` answers are under way at each fallback that a fault is tried with."""

    stage: Stage
    num_chats: int
    rng: random.Random
    show: Show = lambda _: None
    expected: dict[str, Expected] = field(default_factory=dict)
    undisturbed_s: dict[tuple[int, str], float] = field(default_factory=dict)
    """Median time of an answer, by the number of gateways that answer at once and the ask's name."""

    async def prepare(self) -> None:
        """Ask the target itself. Raises `CliError`."""
        self.show("The target's own answers")
        self.expected = await self.stage.expected(ASKS)

    async def try_out(self, name: str, num_rounds: int) -> Row:
        """`num_rounds` times the fault, each followed by an answer that must be whole. Raises `CliError`."""
        fault, row = FAULTS[name], Row(name)
        if (len(fault.fallbacks), ASKS[0].name) not in self.undisturbed_s:
            await self._undisturbed(fault)
        for number in range(num_rounds):
            self.show(f"{name}: {number + 1} of {num_rounds}")
            readings, is_over = await self._round(fault)
            row.num_rounds += 1
            for (ask, fallback, answer), was_over in zip(readings, is_over, strict=True):
                row.num_over += was_over
                verdict = self._judge(fault, ask, fallback, answer)
                if not was_over or verdict in FINDINGS:
                    row.verdicts[verdict] += 1
                if verdict in FINDINGS:
                    row.findings.append(
                        f"{name} {number}: {ask.name}, {fallback}: {verdict}: {self._told(ask, answer)}"
                    )
                if verdict is Verdict.WHOLE and not was_over:
                    usual_s = self.undisturbed_s[len(fault.fallbacks), ask.name]
                    row.added_s.append(answer.total_s - usual_s)
                    row.gaps_s.append(answer.longest_gap_s)
                    row.usual_s[ask.name] = usual_s
            row.leaked += await self.stage.until_idle()
            for fallback in fault.fallbacks:
                ask, again = ASKS[number % len(ASKS)], Answer()
                await read(self.stage.clients[fallback], ask, self.stage.model, again)
                verdict = judge(ask, again, self.expected[ask.name], Fallback.WAIT)
                if verdict is not Verdict.WHOLE:
                    row.verdicts[verdict] += 1
                    row.findings.append(
                        f"after {name} {number}: {ask.name}, {fallback}: {verdict}: {self._told(ask, again)}"
                    )
        return row

    async def _undisturbed(self, fault: Fault) -> None:
        self.show("Undisturbed answers")
        calm = FAULTS["none"]
        times: dict[str, list[float]] = {}
        for _ in range(2):  # the first round warms up
            times.clear()
            readings, _ = await self._round(Fault(calm.text, calm.act, fault.fallbacks))
            for ask, _, answer in readings:
                times.setdefault(ask.name, []).append(answer.total_s)
        for name, taken in times.items():
            self.undisturbed_s[len(fault.fallbacks), name] = median(taken)

    async def _round(self, fault: Fault) -> tuple[list[tuple[Ask, Fallback, Answer]], list[bool]]:
        """All answers, and which of them were over when the fault struck."""
        asks = [ASKS[number % len(ASKS)] for number in range(self.num_chats)]
        readings = [(ask, fallback, Answer()) for fallback in fault.fallbacks for ask in asks]
        tasks = [
            asyncio.create_task(read(self.stage.clients[fallback], ask, self.stage.model, answer))
            for ask, fallback, answer in readings
        ]
        try:
            async with asyncio.timeout(_OVER_S):
                while not all(  # noqa: ASYNC110 - a stream announces nothing
                    answer.num_pieces >= _BEGUN or answer.is_over for _, _, answer in readings
                ):
                    await asyncio.sleep(0.005)
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))
            is_over = [answer.is_over for _, _, answer in readings]
            await fault.act(self.stage, self.rng)
            await asyncio.wait(tasks, timeout=_OVER_S)
        finally:
            hung = [task for task in tasks if not task.done()]
            for task in hung:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task, (_, _, answer) in zip(tasks, readings, strict=True):
            if task in hung:
                answer.ended_s = None
        return readings, is_over

    def _judge(self, fault: Fault, ask: Ask, fallback: Fallback, answer: Answer) -> Verdict:
        return judge(ask, answer, self.expected[ask.name], fallback, line_lost=fault.line_lost)

    def _told(self, ask: Ask, answer: Answer) -> str:
        """Where the answer stands beside the target's own."""
        said = []
        for index, whole in enumerate(self.expected[ask.name].texts):
            got = answer.texts.get(index, "")
            place = shared_start(got, whole)
            parts = f"then {got[place : place + 24]!r} for {whole[place : place + 24]!r}"
            said.append(f"choice {index} equal for {place} of {len(whole)} characters, {parts}")
        ends = f"error {answer.error_code}, broken {answer.broken}"
        ends += f", done {answer.is_done}, {answer.num_tokens} tokens"
        return "; ".join((*said, ends))


def table(rows: Sequence[Row], texts: Mapping[str, Fault] = FAULTS) -> list[str]:
    """One line a fault, as Markdown; times in seconds over what undisturbed answers take."""
    names = (
        "fault",
        "rounds",
        "answers hit",
        *map(str, Verdict),
        "leaked",
        "added p50, s",
        "added p95, s",
        "gap p95, s",
        "what",
    )
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:
        added = [_told_s(_quantile(row.added_s, share)) for share in (0.5, 0.95)]
        added.append(_told_s(_quantile(row.gaps_s, 0.95)))
        counts = (
            row.num_rounds,
            row.verdicts.total(),
            *(row.verdicts[verdict] for verdict in Verdict),
            len(row.leaked),
        )
        lines.append(f"| {' | '.join((row.fault, *map(str, counts), *added, texts[row.fault].text))} |")
    return lines


def _told_s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _quantile(samples: Sequence[float], share: float) -> float | None:
    """The least sample that `share` of all do not exceed."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1] if samples else None
