"""Which part of a text came from where. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from edge_agent.api import GenerationChunk, Source

__all__ = ["Span", "runs", "spans_json"]


@dataclass(frozen=True, slots=True)
class Span:
    """`num_tokens` tokens of one source. Their text may be empty: a character that is not finished yet."""

    source: Source
    num_tokens: int
    text: str


def runs(chunk: GenerationChunk) -> Iterator[tuple[Source, tuple[int, ...]]]:
    """The chunk's tokens, cut where the source changes. Without known sources the target's own."""
    sources = chunk.sources or (Source.CORRECTED,) * len(chunk.token_ids)
    pairs = zip(sources, chunk.token_ids, strict=True)
    for source, run in groupby(pairs, key=lambda pair: pair[0]):
        yield source, tuple(token_id for _, token_id in run)


def spans_json(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """As the extension object `pipesd` carries them."""
    return [{"source": span.source, "tokens": span.num_tokens, "text": span.text} for span in spans]
