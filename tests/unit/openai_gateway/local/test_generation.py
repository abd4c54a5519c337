from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tokenizers import Tokenizer

from edge_agent.api import FinishReason, GenerationChunk, GenerationStats, Route
from edge_agent.errors import CloudRefused, CloudUnreachable
from openai_gateway.errors import ApiError
from openai_gateway.local.generation import Generation
from openai_gateway.local.text.detokenizer import Detokenizer
from openai_gateway.local.text.scores import TokenScorer
from openai_gateway.local.text.transcript import StopScanner, Transcript
from pipesd_vllm.wire import TokenLogprobs


def answer_of(
    tokenizer: Tokenizer,
    chunks: AsyncIterator[GenerationChunk],
    *stops: str,
    scorer: TokenScorer | None = None,
) -> Generation:
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    transcript = Transcript(detokenizer, StopScanner(stops))
    return Generation(chunks, transcript, num_prompt_tokens=5, scorer=scorer)


def chunk(tokenizer: Tokenizer, text: str, reason: FinishReason | None = None) -> GenerationChunk:
    stats = GenerationStats(route=Route.LOCAL, route_reason="asked for")
    return GenerationChunk(tuple(tokenizer.encode(text).ids), reason, stats)


async def test_parts_and_counts(tokenizer: Tokenizer) -> None:
    """Chunks become pieces of text; those without text are left out; the tokens are counted."""

    async def chunks() -> AsyncIterator[GenerationChunk]:
        yield chunk(tokenizer, "ab")
        yield chunk(tokenizer, "")
        yield chunk(tokenizer, "cd", FinishReason.LENGTH)

    answer = answer_of(tokenizer, chunks())
    assert await answer.opened(20.0)
    assert answer.stats.route is Route.LOCAL
    pieces = [(piece.text, piece.finish_reason) async for piece in answer.parts()]
    assert pieces == [("ab", None), ("cd", FinishReason.LENGTH)]
    assert answer.num_completion_tokens == len(tokenizer.encode("ab").ids) + len(tokenizer.encode("cd").ids)


async def test_stop_string_ends_the_generation(tokenizer: Tokenizer) -> None:
    """The generation is closed as soon as a stop string is complete, while the last piece is handed on."""
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[GenerationChunk]:
        try:
            yield chunk(tokenizer, "abc")
            await asyncio.Event().wait()
        finally:
            closed.set()

    answer = answer_of(tokenizer, chunks(), "b")
    async for piece in answer.parts():
        assert (piece.text, piece.finish_reason) == ("a", FinishReason.STOP)
        await asyncio.wait_for(closed.wait(), 20.0)


@pytest.mark.parametrize("size", [1, 2, 9])
async def test_scores_end_with_the_stop_string(tokenizer: Tokenizer, size: int) -> None:
    """Every counted token has a score, the ones of the stop string too, however the chunks are cut."""
    token_ids = tokenizer.encode("abc, def").ids
    views = [TokenLogprobs(-float(index), 1) for index in range(len(token_ids))]

    async def chunks() -> AsyncIterator[GenerationChunk]:
        for start in range(0, len(token_ids), size):
            part = slice(start, start + size)
            yield GenerationChunk(tuple(token_ids[part]), None, logprobs=tuple(views[part]))

    answer = answer_of(tokenizer, chunks(), "c,", scorer=TokenScorer(tokenizer.decode))
    parts = [part async for part in answer.parts()]
    scores = [score for part in parts for score in part.scores]
    assert "".join(part.text for part in parts) == "ab"
    assert "".join(score.text for score in scores) == "abc,"
    assert [score.logprob for score in scores] == [-float(i) for i in range(answer.num_completion_tokens)]


@pytest.mark.parametrize(
    ("error", "status"), [(CloudUnreachable("x"), 503), (CloudRefused("overloaded", "x"), 429)]
)
async def test_failure_before_the_first_chunk(tokenizer: Tokenizer, error: Exception, status: int) -> None:
    """A failure before the first chunk is raised while waiting for it."""

    async def chunks() -> AsyncIterator[GenerationChunk]:
        raise error
        yield  # an async generator has one

    with pytest.raises(ApiError) as caught:
        await answer_of(tokenizer, chunks()).opened(20.0)
    assert caught.value.status == status


async def test_generation_without_an_end(tokenizer: Tokenizer) -> None:
    """A generation that ends without saying why is a fault of the server, not an answer."""

    async def chunks() -> AsyncIterator[GenerationChunk]:
        yield chunk(tokenizer, "ab")

    answer = answer_of(tokenizer, chunks())
    with pytest.raises(ApiError, match="without a finish reason"):
        [piece async for piece in answer.parts()]
