from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import Tokenizer

from edge_agent.api import FinishReason, GenerationChunk, GenerationStats, Route
from edge_agent.errors import CloudRefused, CloudUnreachable
from edge_agent.testing import FakeGenerator
from openai_gateway.errors import ApiError
from openai_gateway.local.generation import Generation
from openai_gateway.local.text.detokenizer import Detokenizer
from openai_gateway.local.text.transcript import StopScanner, Transcript


def answer_of(
    tokenizer: Tokenizer,
    chunks: AsyncIterator[GenerationChunk],
    *stops: str,
) -> Generation:
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    transcript = Transcript(detokenizer, StopScanner(stops))
    return Generation(chunks, transcript, num_prompt_tokens=5)


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


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [msgspec.json.decode(line) for line in lines[:-1]]


@pytest.mark.parametrize("fields", [{}, {"stop": ["!!"]}])
async def test_every_chunk_says_where_it_is_from(
    generator_for: Callable[..., FakeGenerator],
    post: Callable[..., Awaitable[httpx.Response]],
    fields: dict[str, Any],
) -> None:
    """With `x-pipesd-provenance: 1` each chunk's text is marked as the draft model's."""
    text = "naïve 日本語 🙂 hello world!"
    body = {
        "model": "default:local",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    } | fields
    generator = generator_for(text, chunk_tokens=4, route=Route.LOCAL)
    response = await post(generator, CHAT, body, **{"x-pipesd-provenance": "1"})
    events = [e for e in events_of(response) if e["choices"][0]["delta"].get("content")]
    spans = [span for event in events for span in event["pipesd"]["provenance"]]
    assert "".join(span["text"] for span in spans) == text
    assert {span["source"] for span in spans} == {"unverified"}


async def test_unverified_text_is_marked_unasked(
    generator_for: Callable[..., FakeGenerator], post: Callable[..., Awaitable[httpx.Response]]
) -> None:
    """Text that no target has seen says so in each chunk; verified text costs nothing more."""
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    *texts, last = events_of(await post(generator_for(unverified_after=2), CHAT, body))
    marks = [event.get("pipesd") for event in texts if event["choices"][0]["delta"].get("content")]
    assert marks[0] is None
    assert marks[3:] == [{"verified": False}] * (len(marks) - 3)
    assert last["pipesd"]["verified"] is False
    assert last["pipesd"]["unverified_tokens"] > 0


async def test_bad_value(
    generator_for: Callable[..., FakeGenerator], post: Callable[..., Awaitable[httpx.Response]]
) -> None:
    """The header is 0 or 1."""
    body = {"messages": [{"role": "user", "content": "hi"}]}
    response = await post(generator_for(), CHAT, body, **{"x-pipesd-provenance": "yes"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-pipesd-provenance")
