"""Answers in many ways of cutting them into chunks, for tests of the translators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from openai_gateway.testing import chat_chunk

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}


@dataclass(frozen=True)
class Part:
    """One block of an answer: `kind` is "reasoning", "content" or "call"."""

    kind: str
    text: str


def parts() -> st.SearchStrategy[list[Part]]:
    """Blocks as a model writes them: neighbours differ in kind, except calls."""
    part = st.builds(Part, st.sampled_from(["reasoning", "content", "call"]), TEXTS)

    def merged(raw: list[Part]) -> list[Part]:
        kept: list[Part] = []
        for one in raw:
            if not kept or one.kind == "call" or kept[-1].kind != one.kind:
                kept.append(one)
        return kept

    return st.lists(part, max_size=6).map(merged)


def chunks_of(answer: Sequence[Part], cuts: Sequence[int], finish_reason: str) -> list[dict[str, Any]]:
    """The chunks of `answer`, each text cut into pieces of the lengths in `cuts`, taken in turn."""
    chunks = [chat_chunk({"role": "assistant", "content": ""})]
    num_calls = 0
    for part in answer:
        pieces = _pieces(part.text, cuts)
        if part.kind == "call":
            chunks += _call_chunks(num_calls, pieces)
            num_calls += 1
        else:
            chunks += [chat_chunk({part.kind: piece}) for piece in pieces]
    chunks.append(chat_chunk({}, finish_reason, pipesd={"route": "collaborative"}))
    chunks.append({**chat_chunk({}), "choices": [], "usage": USAGE})
    return chunks


def _call_chunks(index: int, pieces: Sequence[str]) -> list[dict[str, Any]]:
    head = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": f"f{index}"}}
    rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [chat_chunk({"tool_calls": [call]}) for call in [head, *rest]]


def _pieces(text: str, cuts: Sequence[int]) -> list[str]:
    pieces: list[str] = []
    start = 0
    while start < len(text):
        length = cuts[len(pieces) % len(cuts)]
        pieces.append(text[start : start + length])
        start += length
    return pieces


def counter() -> Any:
    """`new_id(prefix)`: ids that count up."""
    numbers = iter(range(1_000_000))
    return lambda prefix="id_": f"{prefix}{next(numbers)}"


CUTS = st.lists(st.integers(1, 5), min_size=1, max_size=4)
FINISHES = st.sampled_from(["stop", "length", "tool_calls"])
