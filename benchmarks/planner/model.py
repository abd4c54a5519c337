"""The reduced model: users, GPUs and the network as a closed queueing network in its steady state. Pure.

A user thinks, asks, reads the answer and thinks again. Those whose answers are under way share a GPU's steps,
whose time goes by rows and context; prompts take their part of every step. It is solved for the mean number
under way, and a percentile of users is served as if as many were under way as that share of the time are at
most. Times a token are corrected by factors fitted to the simulator (`fit.json`), which runs the real code.
Beyond 300 edges nothing has been simulated.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final, NamedTuple

import msgspec

from edge_agent.control.modes import predicted_overlap, predicted_wait

__all__ = ["TPT", "Estimate", "Gpu", "Kind", "Load", "Workload", "estimate", "fitted", "users_within"]

_HIGHEST_PREFILL: Final = 0.9
"""Share of a GPU's time beyond which prompts leave nothing for answers."""
_ROUNDS: Final = 60
"""At most, to a steady state: each at least halves what is missing unless windows change."""
_SETTLED: Final = 1e-7
"""Relative change from round to round at which a state is steady."""
_PERCENTILE: Final = 0.95


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server's costs in seconds, and what it has room for. `--gpu-table` is this as JSON."""

    name: str
    base_s: float
    """A step's, without rows and context."""
    token_s: float
    """A row's of a step: one token decoded, verified or read from a prompt."""
    context_s: float = 0.0
    """A KV entry's that a step reads."""
    kv_tokens: int
    """That fit its KV cache."""
    seats: int = 256
    """`--max-num-seqs`."""
    front_s: float = 0.0002
    """CPU of one API server process a commit."""
    api_servers: int = 1

    def step_s(self, rows: float, context: float) -> float:
        """What a step takes."""
        return self.base_s + self.token_s * rows + self.context_s * context


class Kind(enum.StrEnum):
    """How answers are made."""

    PLAIN = "plain"
    NGRAM = "n-gram"
    """vLLM's own speculation, on the GPU."""
    STREAMING = "ours, auto"
    """The server decodes by itself and takes drafts that come in time."""
    WAITING = "ours, offload"
    """The server waits for drafts: fewest passes."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What users ask, and how far away they are."""

    prompt_tokens: int = 1000
    answer_tokens: int = 300
    think_s: float = 20.0
    prefix_hits: float = 0.5
    """Share of prompt tokens found in the prefix cache."""
    rtt_s: float = 0.03
    draft_s: float = 0.004
    acceptance: float = 0.75
    """How likely a draft is right after right ones."""
    max_window: int = 12
    """Drafts that a waiting server checks at most."""
    ngram: tuple[float, float] = (1.8, 3.0)
    """Tokens and drafts a pass of vLLM's n-grams on such texts."""

    @property
    def context(self) -> float:
        """Of an answer under way, in the mean."""
        return self.prompt_tokens + self.answer_tokens / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """`users` of one GPU in the steady state; times of the busiest twentieth of the time."""

    kind: Kind
    users: int
    tpt_s: float
    tokens_per_s: float
    under_way: float
    """Answers under way at a time, in the mean."""
    limit: str
    """What gives out first; empty: nothing has."""
    window: int = 0
    """Drafts that a step verifies for a session."""


@dataclass(frozen=True, slots=True)
class Load:
    """So many answers under way on a GPU, whose steps also read prompts. `TPT` has what tokens take then."""

    gpu: Gpu
    work: Workload
    under_way: float
    prefill: float = field(default=0.0)
    """Share of the GPU's time that goes to prompts."""

    def step_s(self, rows: float, sessions: float) -> float:
        return self.gpu.step_s(rows, sessions * self.work.context) / (1.0 - self.prefill)


class _Cost(NamedTuple):
    """What a token takes, the drafts that a pass verifies, and the passes a token."""

    tpt_s: float
    window: int
    passes: float


def _plain(load: Load) -> _Cost:
    return _Cost(load.step_s(load.under_way, load.under_way), 0, 1.0)


def _ngram(load: Load) -> _Cost:
    tokens, drafts = load.work.ngram
    step_s = load.step_s(load.under_way * (1.0 + drafts), load.under_way)
    return _Cost(step_s / tokens, round(drafts), 1.0 / tokens)


def _streaming(load: Load) -> _Cost:
    """A server that decodes on, with the number of drafts a pass that is best."""
    work, found = load.work, []
    for window in (1, 2, 4, 8):
        step_s = load.step_s(load.under_way * (1 + window), load.under_way)
        cost = predicted_overlap(step_s * 1e3, work.rtt_s * 1e3, work.draft_s * 1e3, work.acceptance)
        found.append(_Cost(cost.ms / 1e3, window, cost.passes))
    return min(found)


def _waiting(load: Load) -> _Cost:
    """A server that waits: a session is in a step, or on its way. The batch is what is in at a time."""
    work, best = load.work, _Cost(math.inf, 0, 1.0)
    for most in range(1, work.max_window + 1):
        in_step, found = load.under_way, best
        for _ in range(_ROUNDS):
            step_s = load.step_s(in_step * (1 + most), load.under_way)
            cost, window = predicted_wait(
                step_s * 1e3, work.rtt_s * 1e3, work.draft_s * 1e3, work.acceptance, most
            )
            round_s = cost.ms / 1e3 / cost.passes
            # Drafts come in mid-step and wait for half of one.
            round_s += step_s / 2.0 * min(1.0, (round_s - step_s) / step_s)
            found = _Cost(round_s * cost.passes, window, cost.passes)
            before, in_step = in_step, (in_step + load.under_way * min(1.0, step_s / round_s)) / 2.0
            if _is_settled(before, in_step):
                break
        if found > best:
            break  # longer windows make steps longer, and are worth ever less
        best = found
    return best


TPT: Final[Mapping[Kind, Callable[[Load], _Cost]]] = {
    Kind.PLAIN: _plain,
    Kind.NGRAM: _ngram,
    Kind.STREAMING: _streaming,
    Kind.WAITING: _waiting,
}
"""What a token of an answer takes in each way, as modelled; `served` corrects it."""


def _is_settled(before: float, after: float) -> bool:
    return math.isclose(before, after, rel_tol=_SETTLED)


def served(load: Load, kind: Kind, factors: Mapping[str, float]) -> _Cost:
    """As `TPT`, times the factor of its kind; where drafts pay nothing our edges are streamed to."""
    cost = TPT[kind](load)
    cost = cost._replace(tpt_s=cost.tpt_s * factors.get(str(kind), 1.0))
    return min(cost, served(load, Kind.PLAIN, factors)) if kind is Kind.STREAMING else cost


def estimate(
    gpu: Gpu, work: Workload, kind: Kind, users: int, factors: Mapping[str, float] | None = None
) -> Estimate:
    """`users` on one GPU. `factors` by kind correct its time a token (`fit.json`); None: nothing does."""
    factors = factors or {}
    prompt_s = work.prompt_tokens * (1.0 - work.prefix_hits) * gpu.token_s
    under_way = prefill = 0.0
    cost = _Cost(0.0, 0, 1.0)
    for _ in range(_ROUNDS):
        cost = served(Load(gpu, work, max(1.0, under_way), prefill), kind, factors)
        answer_s = prompt_s + cost.tpt_s * work.answer_tokens + work.rtt_s
        cycle_s = work.think_s + answer_s
        before = under_way, prefill
        under_way = (under_way + users * answer_s / cycle_s) / 2.0
        prefill = (prefill + min(_HIGHEST_PREFILL, users * prompt_s / cycle_s)) / 2.0
        if all(map(_is_settled, before, (under_way, prefill))):
            break
    spread = math.sqrt(under_way * max(0.0, 1.0 - under_way / users))
    busy = under_way + NormalDist().inv_cdf(_PERCENTILE) * spread
    busy_s = served(Load(gpu, work, max(1.0, busy), prefill), kind, factors).tpt_s
    tokens_per_s = under_way / max(cost.tpt_s, 1e-9)
    limits = {
        "KV cache": busy * (work.prompt_tokens + work.answer_tokens) > gpu.kv_tokens,
        "seats": busy > gpu.seats,
        "front end": tokens_per_s * cost.passes * gpu.front_s > gpu.api_servers,
        "prompts": prefill > 0.999 * _HIGHEST_PREFILL,
    }
    limit = next((name for name, is_over in limits.items() if is_over), "")
    return Estimate(kind, users, busy_s, tokens_per_s, under_way, limit, cost.window)


def users_within(
    gpu: Gpu, work: Workload, kind: Kind, tpt_s: float, factors: Mapping[str, float] | None = None
) -> tuple[int, str]:
    """Most users of one GPU whose tokens take `tpt_s` at most 95 % of the time, and what ends it."""
    few, many = 0, 1

    def why_not(users: int) -> str:
        found = estimate(gpu, work, kind, users, factors)
        return found.limit or ("TPT limit" if found.tpt_s > tpt_s else "")

    while not why_not(many) and many < 1 << 20:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if why_not(middle) else (middle, many)
    return few, why_not(many)


def fitted(pairs: Iterable[tuple[float, float]]) -> float:
    """By which simulated times are longer than modelled ones, in pairs: the geometric mean of the ratios."""
    logs = [math.log(simulated / modelled) for simulated, modelled in pairs]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
