"""Two continuations of one prompt compared, and why they part: how close the two tokens were.

All but `TargetAlone` and `explained` is pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Protocol

import numpy as np

from benchmarks.harness.clients import Client, sampling_body
from edge_agent.api import FinishReason, Sampling
from edge_agent.sampling.adjustment import LogitAdjuster
from edge_agent.sampling.restriction import least_kept
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire.noise import gumbel

__all__ = [
    "Continuation",
    "Difference",
    "Margin",
    "Reference",
    "TargetAlone",
    "explained",
    "first_difference",
    "logprob_gap",
    "margin_of",
    "near_tie_nats",
    "told",
    "told_logprobs",
]

_NEAR_TIE_NATS: Final = 5e-4
"""In float32 logits of differently shaped batches differ by some 1e-5; this leaves room for large models."""
_NEAR_TIE_BFLOAT16_NATS: Final = 0.25
"""Two steps: a bfloat16 logit between 16 and 32 moves in steps of 0.125."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What was generated after a prompt."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None
    logprobs: tuple[Mapping[int, float], ...] = field(default=(), compare=False)
    """Of each token, where they were asked for: its own by token id, and those of the likeliest."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first one. `position` counts generated tokens from 0.

    A token is None where that side had ended; both are None (and `position` is the common length)
    when the tokens agree but the text or the finish reason does not.
    """

    position: int
    plain_token: int | None
    our_token: int | None


def first_difference(plain: Continuation, ours: Continuation) -> Difference | None:
    """None if tokens, text and finish reason are the same."""
    if plain == ours:
        return None
    for position, tokens in enumerate(zip_longest(plain.token_ids, ours.token_ids)):
        if tokens[0] != tokens[1]:
            return Difference(position, *tokens)
    return Difference(len(plain.token_ids), None, None)


def logprob_gap(plain: Continuation, ours: Continuation) -> float | None:
    """How far the log-probabilities of equal tokens are apart at most; None if a side has none."""
    found = [
        abs(ours_of[token] - plain_of[token])
        for plain_of, ours_of, same in zip(
            plain.logprobs, ours.logprobs, _equal_so_far(plain, ours), strict=False
        )
        if same
        for token in plain_of.keys() & ours_of.keys()
    ]
    return max(found, default=None)


def _equal_so_far(plain: Continuation, ours: Continuation) -> Iterator[bool]:
    same = True
    for one, other in zip(plain.token_ids, ours.token_ids, strict=False):
        same = same and one == other
        yield same


def told_logprobs(choice: Mapping[str, Any]) -> tuple[Mapping[int, float], ...]:
    """Those of a completion's choice, by token id; raises `CliError` for a choice without."""
    told = (choice.get("logprobs") or {}).get("top_logprobs")
    if not told or not told[0]:
        raise CliError("The server gives no log-probabilities.")
    return tuple({int(name.removeprefix("token_id:")): value for name, value in of.items()} for of in told)


def near_tie_nats(dtype: str | None) -> float:
    """The gap below which rounding may turn a choice round, for a target that computes in `dtype`.

    None: the server's choice, which may be bfloat16.
    """
    return _NEAR_TIE_NATS if dtype == "float32" else _NEAR_TIE_BFLOAT16_NATS


@dataclass(frozen=True, slots=True)
class Margin:
    """How far the plain token leads before ours, in nats of logit (before the temperature).

    `by_score` is the lead in what is compared: the logit after penalties plus the temperature times the
    noise. `to_edge` is the distance of the token nearest to it from the edge of top-p; None if that restricts
    nothing. A choice turns round when rounding moves one of the two across 0.
    """

    by_score: float
    to_edge: float | None = None

    def is_tie(self, limit_nats: float) -> bool:
        """Whether rounding of less than `limit_nats` explains another choice."""
        near_edge = self.to_edge is not None and abs(self.to_edge) < limit_nats
        return near_edge or abs(self.by_score) < limit_nats

    def __str__(self) -> str:
        edge = "" if self.to_edge is None else f", {self.to_edge:+.6f} from the edge of top-p"
        return f"{self.by_score:+.6f} nats apart{edge}"


def margin_of(
    logits: Mapping[int, float],
    sampling: Sampling,
    prompt: Sequence[int],
    generated: Sequence[int],
    plain_token: int,
    our_token: int,
) -> Margin | None:
    """How close the two tokens are after `prompt` and `generated`; None if one's logit is not known.

    `logits` are the target's by token id, before all parameters. Log-probabilities do as well, unless there
    is a repetition penalty, which depends on the logits' signs. Tokens left out count as impossible.
    """
    if plain_token not in logits or our_token not in logits:
        return None
    tokens = (*prompt, *generated)
    values = np.full(max(*logits, *tokens) + 1, -np.inf, dtype=np.float32)
    values[list(logits)] = list(logits.values())
    LogitAdjuster(sampling, len(prompt), (), values.size).apply(values, tokens)
    pair = np.array([plain_token, our_token], dtype=np.int64)
    noise = np.zeros(2)
    scale = sampling.temperature or 1.0
    edge = None
    if sampling.temperature:
        assert sampling.seed is not None
        noise = gumbel(sampling.seed, len(tokens) - 1, pair)
        scores = values / np.float32(scale)
        least = least_kept(scores, min_p=sampling.min_p, top_k=sampling.top_k, top_p=sampling.top_p)
        edge = None if least == -math.inf else min(((scores[pair] - least) * scale).tolist(), key=abs)
    lead = values[pair].astype(np.float64) + scale * noise
    return Margin(float(lead[0] - lead[1]), edge)


class Reference(Protocol):
    """The target without us."""

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Continuation:
        """The whole continuation, drawn with the seed of `sampling`."""
        ...

    async def most_likely(self, prefix: Sequence[int]) -> Mapping[int, float]:
        """Logits or log-probabilities (nats) after `prefix`, of as many tokens as the server tells."""
        ...


class TargetAlone:
    """A `Reference`: vLLM's own /v1/completions, nothing drafted. All methods raise `CliError`."""

    def __init__(self, client: Client, num_logprobs: int = 20) -> None:
        """`num_logprobs` tokens are told of a position: 20 are the most unless a server is told otherwise."""
        self._client = client
        self._num_logprobs = num_logprobs

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Continuation:
        body = {**sampling_body(sampling), "seed": sampling.seed, "return_token_ids": True}
        _, choice = await self._client.complete(prompt, body)
        if not isinstance(choice.get("token_ids"), list):
            raise CliError("The server gives no token ids: this needs vLLM 0.10.2 or newer.")
        reason = FinishReason(choice["finish_reason"])
        logprobs = () if sampling.logprobs is None else told_logprobs(choice)
        return Continuation(tuple(choice["token_ids"]), choice["text"], reason, logprobs)

    async def most_likely(self, prefix: Sequence[int]) -> Mapping[int, float]:
        body = sampling_body(Sampling(1)) | {
            "logprobs": self._num_logprobs,
            "return_tokens_as_token_ids": True,
        }
        _, choice = await self._client.complete(prefix, body)
        return told_logprobs(choice)[0]


async def explained(
    reference: Reference,
    prompt: Sequence[int],
    sampling: Sampling,
    plain: Continuation,
    ours: Continuation,
) -> tuple[Difference | None, Margin | None]:
    """Where `ours` parts from `plain`, and how close that was, which the target is asked.

    The margin is None where a side had ended, or where the server does not tell of both tokens.
    """
    difference = first_difference(plain, ours)
    if difference is None or difference.plain_token is None or difference.our_token is None:
        return difference, None
    before = plain.token_ids[: difference.position]
    logits = await reference.most_likely((*prompt, *before))
    return difference, margin_of(
        logits, sampling, prompt, before, difference.plain_token, difference.our_token
    )


def told(
    where: str,
    difference: Difference,
    margin: Margin | None,
    limit_nats: float,
    text_of: Callable[[list[int]], str],
) -> str:
    """One line on two texts that part `where`: in what, and whether rounding explains it."""
    if difference.plain_token is None and difference.our_token is None:
        return f"{where}: the tokens are identical, text or finish reason are not: unexplained"
    plain, ours = (
        "(ended)" if token is None else f"{text_of([token])!r} ({token})"
        for token in (difference.plain_token, difference.our_token)
    )
    at = f"{where}: differs at generated token {difference.position}, target alone {plain}, ours {ours}"
    if margin is None:
        return f"{at}: unexplained (the target does not tell how close they are)"
    return f"{at}: {'near-tie' if margin.is_tie(limit_nats) else 'unexplained'} ({margin})"
