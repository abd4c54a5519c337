"""How often a draft would have chosen the target's next token, greedily."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.api import TokenizerBundle
from edge_agent.drafting import Drafter, resolve_model
from edge_agent.drafting.llama.drafter import LlamaDrafter
from edge_agent.drafting.llama.loading import LlamaSettings
from edge_agent.sampling import DraftToken
from openai_gateway.local.text.tokenizer import TargetText

__all__ = ["TracePoint", "greedy_text", "loaded", "target_text", "trace_of"]

_CONTEXT: Final = 2048


@dataclass(frozen=True, slots=True)
class TracePoint:
    """One position of the target's text: did the draft agree, and how sure was it of its own token?"""

    agrees: bool
    probability: float


def greedy_text(model: Drafter, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The model's own continuation, at most as long as there is room."""
    sequence = model.open(prompt)
    try:
        return [_next(model, sequence).token_id for _ in range(min(num_tokens, model.room(sequence)))]
    finally:
        model.close_sequence(sequence)


def trace_of(draft: Drafter, prompt: Sequence[int], text: Sequence[int]) -> Iterator[TracePoint]:
    """The draft's choice at each position of `text`, given the prompt and the text before it."""
    sequence = draft.open(prompt)
    try:
        for number, token_id in enumerate(text):
            chosen = _next(draft, sequence)
            agrees = chosen.token_id == token_id
            if not agrees:
                draft.rewrite(sequence, len(prompt) + number, [token_id])
            yield TracePoint(agrees, chosen.probability)
    finally:
        draft.close_sequence(sequence)


def _next(model: Drafter, sequence: int) -> DraftToken:
    while True:  # a long prompt is evaluated in several calls
        drafts = model.draft([sequence])
        if sequence in drafts:
            return drafts[sequence]


def loaded(model: str) -> Drafter:
    """A draft model in this process, on one thread. Raises `ModelError`."""
    return LlamaDrafter.load(
        resolve_model(model), LlamaSettings(n_threads=1, n_ctx=_CONTEXT, max_sequences=1)
    )


def target_text(target: Path) -> TargetText:
    """The tokenizer and chat template of a Hugging Face folder that was made here."""
    config = json.loads((target / "tokenizer_config.json").read_text())
    special = {name: value for name, value in config.items() if name.endswith("_token")}
    tokenizer = (target / "tokenizer.json").read_text()
    return TargetText(TokenizerBundle(tokenizer, config.get("chat_template"), special, ()))
