from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import Tokenizer

from edge_agent.api import FinishReason, GenerationChunk, GenerationStats, Route, Source
from edge_agent.errors import CloudRefused, CloudUnreachable
from edge_agent.testing import FakeGenerator
from openai_gateway.errors import ApiError
from openai_gateway.local.generation import Generation, Span, runs, spans_json
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


CHAT = "/v1/chat/completions"
DRAFTED, CORRECTED, UNVERIFIED = Source


def test_runs() -> None:
    """Tokens are cut where the source changes; without sources they are the target's own."""
    chunk = GenerationChunk((1, 2, 3), None, sources=(DRAFTED, DRAFTED, CORRECTED))
    assert list(runs(chunk)) == [(DRAFTED, (1, 2)), (CORRECTED, (3,))]
    assert list(runs(GenerationChunk((1, 2), None))) == [(CORRECTED, (1, 2))]
    assert list(runs(GenerationChunk((), None))) == []


def test_json() -> None:
    """Spans are plain objects in a body."""
    assert spans_json([Span(DRAFTED, 2, "ab")]) == [{"source": "drafted", "tokens": 2, "text": "ab"}]


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [msgspec.json.decode(line) for line in lines[:-1]]


@pytest.mark.parametrize("fields", [{}, {"stop": ["!!"]}])
async def test_every_chunk_says_where_it_is_from(
    generator_for: Callable[..., FakeGenerator],
    post: Callable[..., Awaitable[httpx.Response]],
    fields: dict[str, Any],
) -> None:
    """With `x-pipesd-provenance: 1` the spans of each chunk make up its text, and all its tokens count."""
    text = "naïve 日本語 🙂 hello world!"
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True} | fields
    response = await post(generator_for(text, chunk_tokens=4), CHAT, body, **{"x-pipesd-provenance": "1"})
    events = [e for e in events_of(response) if e["choices"][0]["delta"].get("content")]
    spans = [span for event in events for span in event["pipesd"]["provenance"]]
    assert "".join(span["text"] for span in spans) == text
    for event in events:
        texts = [span["text"] for span in event["pipesd"]["provenance"]]
        assert "".join(texts) == event["choices"][0]["delta"]["content"]
        assert event["pipesd"]["verified"] is True
    assert {span["source"] for span in spans} == {"drafted", "corrected"}


async def test_unverified_text_is_marked_unasked(
    generator_for: Callable[..., FakeGenerator], post: Callable[..., Awaitable[httpx.Response]]
) -> None:
    """Text that no target has seen says so in each chunk; verified text costs nothing more."""
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    *texts, last = events_of(await post(generator_for(unverified_after=2), CHAT, body))
    marks = [event.get("pipesd") for event in texts if event["choices"][0]["delta"].get("content")]
    assert marks[:2] == [None, None]
    assert marks[2:] == [{"verified": False}] * (len(marks) - 2)
    assert last["pipesd"]["verified"] is False
    assert last["pipesd"]["unverified_tokens"] > 0


async def test_bad_value(
    generator_for: Callable[..., FakeGenerator], post: Callable[..., Awaitable[httpx.Response]]
) -> None:
    """The header is 0 or 1."""
    body = {"messages": [{"role": "user", "content": "hi"}]}
    response = await post(generator_for(), CHAT, body, **{"x-pipesd-provenance": "yes"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-pipesd-provenance")
