"""Performance on virtual time: rivals in cells, paired with plain streaming by prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import msgspec
import numpy as np

from benchmarks.harness.rivals import CLOUD, Rival
from benchmarks.reports.intervals import paired_interval
from benchmarks.sim.outcome import ChatOutcome
from benchmarks.sim.plan import Plan
from benchmarks.sim.scenarios import Cell, Sources, plan_of
from benchmarks.sim.world import run
from edge_agent.api import GenerationStats
from edge_agent.control.policies.registry import DEFAULT_POLICY
from edge_agent.settings import EdgeSettings

__all__ = ["STREAMING", "Answer", "Row", "answers_of", "answers_of_plan", "is_default", "measured", "row_of"]

STREAMING: Final = Rival(CLOUD)
_AGAIN_SEED: Final = 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One rival in one cell. Speedup is streaming's TPT over the rival's: above 1 is faster.

    Passes, drafts and bytes are those of an answer's token. `ttft_ms` is a median over answers, `p95_tpt_ms`
    a percentile over them; `mode` is None for plain streaming.
    """

    scenario: str
    """With costs, and edges if there are several."""
    category: str
    policy: str
    """"cloud": plain streaming once more (A/A)."""
    mode: str | None
    is_default: bool
    sources: str = Sources.BOTH
    """What our edge drafted from; the policies of the literature use the model only."""
    constructed: bool = False
    """The texts were written by hand."""
    tpt_ms: float
    streaming_tpt_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    """With `speedup_low` the 95 % interval over prompts (bootstrap)."""
    target_passes_per_token: float
    drafted_per_token: float
    """Drafts that the target verified."""
    bytes_up_per_token: float
    ttft_ms: float
    p95_tpt_ms: float

    @property
    def label(self) -> str:
        """Short and unique in a cell."""
        if self.policy != DEFAULT_POLICY:
            return self.policy
        only = "" if self.sources == Sources.BOTH else f" {self.sources}"
        return f"{self.policy} {self.mode}{only}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer's figures. Times in seconds."""

    num_tokens: int
    total_s: float
    ttft_s: float
    target_passes: int
    drafts_verified: int
    bytes_up: int

    @classmethod
    def of(cls, stats: GenerationStats) -> Answer:
        """Of an answer that came to its end."""
        assert stats.first_token_s is not None
        assert stats.last_token_s is not None
        return cls(
            num_tokens=stats.completion_tokens,
            total_s=stats.last_token_s - stats.started_s,
            ttft_s=stats.first_token_s - stats.started_s,
            target_passes=stats.target_passes,
            drafts_verified=stats.draft_tokens_verified,
            bytes_up=stats.uplink_bytes,
        )


def answers_of(cell: Cell, rival: Rival, seed: int = 0, sources: Sources = Sources.BOTH) -> list[Answer]:
    """All answers of `rival` in `cell`. Raises `RuntimeError` if one is not the recorded text."""
    return answers_of_plan(cell, rival, plan_of(cell, rival, seed, sources))


def answers_of_plan(cell: Cell, rival: Rival, plan: Plan) -> list[Answer]:
    """As `answers_of`, of a plan that was made with `plan_of`."""
    outcome = run(plan)
    if outcome.problems:
        raise RuntimeError(f"{cell.name}, {rival.label}: {outcome.problems[0]}")
    asked = cell.asked()
    return [
        _checked(cell, plan, number, chat, answer.tokens)
        for number, (chat, (_, _, answer)) in enumerate(zip(outcome.chats, asked, strict=False))
    ]


def _checked(cell: Cell, plan: Plan, number: int, chat: ChatOutcome, tokens: Sequence[int]) -> Answer:
    if chat.end.finish_reason != "length" or tuple(chat.token_ids) != tuple(tokens) or chat.stats is None:
        raise RuntimeError(f"{cell.name}, answer {number}: {chat.end}")
    own = plan.chats[number]
    starts_s = [other.start_s for other in plan.chats if other.edge == own.edge]
    if any(own.start_s < start_s < (chat.ended_s or 0.0) for start_s in starts_s):
        raise RuntimeError(f"{cell.name}, answer {number} ran into the next one")
    return Answer.of(chat.stats)


def measured(
    cell: Cell,
    rivals: Sequence[Rival],
    note: Callable[[], None],
    also: Sequence[Sources] = (),
) -> Iterator[Row]:
    """A row a rival, and of the default one another from each of the sources `also`.

    `note` is called after each run; plain streaming comes first.
    """
    streaming = answers_of(cell, STREAMING)
    note()
    for rival in rivals:
        for sources in (Sources.BOTH, *(also if is_default(rival) else ())):
            answers = answers_of(cell, rival, _AGAIN_SEED if rival == STREAMING else 0, sources)
            note()
            yield row_of(cell, rival, answers, streaming, sources)


def row_of(
    cell: Cell,
    rival: Rival,
    answers: Sequence[Answer],
    streaming: Sequence[Answer],
    sources: Sources = Sources.BOTH,
) -> Row:
    """`answers` and `streaming` are of the same prompts, in the same order."""
    num_tokens = sum(answer.num_tokens for answer in answers)
    total_s, streaming_s = ([each.total_s for each in of] for of in (answers, streaming))
    low, high = paired_interval(streaming_s, total_s)
    each_ms = [answer.total_s * 1e3 / answer.num_tokens for answer in answers]
    return Row(
        scenario=cell.name,
        category=cell.category,
        policy=rival.policy,
        mode=None if rival.mode is None else str(rival.mode),
        is_default=is_default(rival) and sources is Sources.BOTH,
        sources=sources,
        constructed=any(answer.constructed for answer in cell.answers),
        tpt_ms=_rounded(sum(total_s) * 1e3 / num_tokens),
        streaming_tpt_ms=_rounded(sum(streaming_s) * 1e3 / num_tokens),
        speedup=_rounded(sum(streaming_s) / sum(total_s)),
        speedup_low=_rounded(low),
        speedup_high=_rounded(high),
        target_passes_per_token=_rounded(sum(answer.target_passes for answer in answers) / num_tokens),
        drafted_per_token=_rounded(sum(answer.drafts_verified for answer in answers) / num_tokens),
        bytes_up_per_token=_rounded(sum(answer.bytes_up for answer in answers) / num_tokens),
        ttft_ms=_rounded(median(answer.ttft_s for answer in answers) * 1e3),
        p95_tpt_ms=_rounded(float(np.percentile(each_ms, 95, method="inverted_cdf"))),
    )


def _rounded(value: float) -> float:
    return round(value, 4)


def is_default(rival: Rival) -> bool:
    """Whether an edge does this without settings."""
    return rival.policy == DEFAULT_POLICY and str(rival.mode) == EdgeSettings.model_fields["mode"].default
