"""One running generation, as text."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from edge_agent.api import FinishReason, GenerationChunk, GenerationStats, Source
from edge_agent.errors import CloudMisbehaved
from openai_gateway.errors import translate
from openai_gateway.local.pump import Pump
from openai_gateway.local.text.scores import TokenScore, TokenScorer
from openai_gateway.local.text.transcript import Piece, Transcript

__all__ = ["Generation", "Part", "Span", "runs", "spans_json"]


@dataclass(frozen=True, slots=True)
class Span:
    """`num_tokens` tokens of one source. Their text may be empty: a character that is not finished yet."""

    source: Source
    num_tokens: int
    text: str


def runs(chunk: GenerationChunk) -> Iterator[tuple[Source, tuple[int, ...]]]:
    """The chunk's tokens, cut where the source changes; unknown sources count as the target's own."""
    sources = chunk.sources or (Source.CORRECTED,) * len(chunk.token_ids)
    pairs = zip(sources, chunk.token_ids, strict=True)
    for source, run in groupby(pairs, key=lambda pair: pair[0]):
        yield source, tuple(token_id for _, token_id in run)


def spans_json(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """`spans` as the extension object `pipesd` carries them."""
    return [{"source": span.source, "tokens": span.num_tokens, "text": span.text} for span in spans]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """More text (possibly none) and, in the last part, the finish reason.

    `verified`: all of it is the target's own. If that was asked for, `spans` say where it came from, and
    `scores` what the target thought of its tokens (text that may become a stop string lags behind them).
    """

    text: str
    finish_reason: FinishReason | None
    verified: bool = True
    spans: tuple[Span, ...] = ()
    scores: tuple[TokenScore, ...] = ()


class Generation:
    """A running generation, read as parts of text. Must be closed with `aclose`.

    `stats` are the agent's figures as of the last part. All failures are raised as `ApiError`.
    """

    def __init__(
        self,
        chunks: AsyncIterator[GenerationChunk],
        transcript: Transcript,
        num_prompt_tokens: int,
        *,
        with_spans: bool = False,
        scorer: TokenScorer | None = None,
    ) -> None:
        """`scorer`: reports scores, if they were asked for."""
        self._pump = Pump(chunks)
        self._transcript = transcript
        self._with_spans = with_spans
        self._scorer = scorer
        self._spans: list[Span] = []
        self.num_prompt_tokens = num_prompt_tokens
        self.stats = GenerationStats()

    @property
    def num_completion_tokens(self) -> int:
        """Number of tokens of the text so far, including the one that ended it."""
        return self._transcript.num_tokens

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._transcript.stop_string

    async def opened(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the first chunk; true, and `stats` are set, if it came.

        Raises `ApiError` if the generation failed before it.
        """
        try:
            first = await self._pump.peek(timeout_s)
        except Exception as error:
            raise translate(error) from error
        if first is not None:
            self.stats = first.stats
        return first is not None

    async def parts(self) -> AsyncIterator[Part]:
        """One part for each chunk that has text or scores; the last, and only the last, has a finish reason.

        The generation is ended as soon as a stop string is complete. Raises `ApiError` if it fails.
        """
        try:
            async for chunk in self._pump:
                self.stats = chunk.stats
                num_before = self._transcript.num_tokens
                piece = self._push(chunk)
                scores = self._score(chunk, self._transcript.num_tokens - num_before)
                if piece.finish_reason is not None and chunk.finish_reason is None:
                    self._pump.cancel()  # a stop string: the generation itself would go on
                if piece.text or scores or piece.finish_reason is not None:
                    yield Part(piece.text, piece.finish_reason, chunk.verified, self._take_spans(), scores)
                if piece.finish_reason is not None:
                    return
            raise CloudMisbehaved("the generation ended without a finish reason")
        except Exception as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        """End the generation, if it still runs, on both sides. Idempotent."""
        await self._pump.aclose()

    def _push(self, chunk: GenerationChunk) -> Piece:
        if not self._with_spans:
            return self._transcript.push(chunk.token_ids, chunk.finish_reason)
        text, num_left = "", len(chunk.token_ids)
        for source, token_ids in runs(chunk):
            num_left -= len(token_ids)
            num_before = self._transcript.num_tokens
            piece = self._transcript.push(token_ids, None if num_left else chunk.finish_reason)
            self._spans.append(Span(source, self._transcript.num_tokens - num_before, piece.text))
            text += piece.text
            if piece.finish_reason is not None:
                return Piece(text, piece.finish_reason)
        if chunk.token_ids:
            return Piece(text, None)
        piece = self._transcript.push((), chunk.finish_reason)
        if piece.text:  # held back so far: it may have been the beginning of a stop string
            source = Source.CORRECTED if chunk.stats.verified else Source.UNVERIFIED
            self._spans.append(Span(source, 0, piece.text))
        return piece

    def _score(self, chunk: GenerationChunk, num_counted: int) -> tuple[TokenScore, ...]:
        """Scores of the chunk's first `num_counted` tokens; the answer ends before the others."""
        if self._scorer is None:
            return ()
        logprobs = None if chunk.logprobs is None else chunk.logprobs[:num_counted]
        return self._scorer.score(chunk.token_ids[:num_counted], logprobs)

    def _take_spans(self) -> tuple[Span, ...]:
        spans, self._spans = tuple(self._spans), []
        return spans
