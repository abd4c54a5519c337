"""Why two texts of one seed parted: how close the two tokens were under everything that decides. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.generation import SamplingSettings
from edge_agent.noise import gumbel
from edge_agent.sampling.adjustment import LogitAdjuster
from edge_agent.sampling.restriction import least_kept

__all__ = ["Margin", "margin"]


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


def margin(
    logits: Mapping[int, float],
    sampling: SamplingSettings,
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
        noise = gumbel(sampling.seed, len(tokens), pair)
        scores = values / np.float32(scale)
        least = least_kept(scores, min_p=sampling.min_p, top_k=sampling.top_k, top_p=sampling.top_p)
        edge = None if least == -math.inf else min(((scores[pair] - least) * scale).tolist(), key=abs)
    lead = values[pair].astype(np.float64) + scale * noise
    return Margin(float(lead[0] - lead[1]), edge)
