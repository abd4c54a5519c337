from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from edge_agent.api import GenerationChunk, Source
from edge_agent.testing.generator import FakeGenerator
from openai_gateway.local.generation import Span, runs, spans_json

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
