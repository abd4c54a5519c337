"""Routes, tools, fallback and provenance, as OpenAI's own client sees them; the server is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import openai
import pytest
from openai import AsyncOpenAI

from edge_agent.api import Route
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator

from .test_gateway_openai_sdk import ANSWER, MESSAGES, MODEL, MakeFake, fake, serving

__all__ = ["fake"]

TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
REFUSAL = "The prompt_embeds and logit_bias parameters are not supported together."


def event(body: object) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "chatcmpl-server", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return event({**head, "choices": [choice]})


def call(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


TOOL_STREAM = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning": "hm"}),
    chunk(call(index=0, id="call_1", type="function", function={"name": "get_weather", "arguments": ""})),
    chunk(call(index=0, function={"arguments": '{"city": '})),
    chunk(call(index=0, function={"arguments": '"Paris"}'})),
    chunk({}, "tool_calls"),
    b"data: [DONE]\n\n",
)


@asynccontextmanager
async def client_of(generator: FakeGenerator) -> AsyncIterator[AsyncOpenAI]:
    async with (
        serving(generator, None) as url,
        AsyncOpenAI(base_url=url, api_key="none", max_retries=2) as client,
    ):
        yield client


def served(generator: FakeGenerator, status: int, *parts: bytes) -> FakeGenerator:
    generator.cloud = lambda path, body: FakeForwardedAnswer(status, parts)
    return generator


async def test_streamed_tool_call(fake: MakeFake) -> None:
    """The client's accumulator builds the call; reasoning is there under both names."""
    async with (
        client_of(served(fake(), 200, *TOOL_STREAM)) as client,
        client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=TOOLS) as stream,
    ):
        chunks = [item.chunk async for item in stream if item.type == "chunk"]
        answer = await stream.get_final_completion()
    [made] = answer.choices[0].message.tool_calls or ()
    assert (made.id, made.function.name, made.function.arguments) == (
        "call_1",
        "get_weather",
        '{"city": "Paris"}',
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    said = chunks[1].choices[0].delta.model_extra or {}
    assert said["reasoning"] == said["reasoning_content"] == "hm"
    assert (chunks[-1].model_extra or {})["pipesd"]["route"] == "collaborative"


async def test_refusal_of_the_server(fake: MakeFake) -> None:
    """vLLM's refusal of a parameter is the client's BadRequestError with its name, and not retried."""
    error = {"error": {"message": REFUSAL, "type": "BadRequestError", "param": None, "code": 400}}
    generator = served(fake(), 400, msgspec.json.encode(error))
    async with client_of(generator) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2, logit_bias={"5": 1})
    assert caught.value.param == "logit_bias"
    assert len(generator.forwarded) == 1


async def test_three_models(fake: MakeFake) -> None:
    """Each route is a model with its context length."""
    async with client_of(fake()) as client:
        cards = [card async for card in client.models.list()]
    assert [card.id for card in cards] == [MODEL, f"{MODEL}:cloud", f"{MODEL}:local"]
    assert all((card.model_extra or {})["max_model_len"] > 0 for card in cards)


async def test_local_route(fake: MakeFake) -> None:
    """`NAME:local` asks the agent for its draft model, whether or not the verifier is there."""
    generator = fake(route=Route.LOCAL, route_reason="asked for")
    generator.unreachable = RuntimeError("nobody may ask")
    async with client_of(generator) as client:
        answer = await client.chat.completions.create(model=f"{MODEL}:local", messages=MESSAGES)
    assert answer.choices[0].message.content == ANSWER
    assert generator.records[0].request.route is Route.LOCAL
    assert (answer.model_extra or {})["pipesd"]["verified"] is False


async def test_lost_in_mid_answer(fake: MakeFake) -> None:
    """The part of a stream that the draft model wrote is marked, chunk by chunk, and the end says so."""
    async with client_of(fake(unverified_after=3)) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        chunks = [item async for item in stream]
    verified = [
        (item.model_extra or {}).get("pipesd", {}).get("verified", True)
        for item in chunks
        if item.choices[0].delta.content
    ]
    assert verified == sorted(verified, reverse=True)
    assert set(verified) == {True, False}
    assert (chunks[-1].model_extra or {})["pipesd"]["unverified_tokens"] > 0


async def test_provenance(fake: MakeFake) -> None:
    """With the header, the spans of all chunks make up the answer."""
    async with client_of(fake(chunk_tokens=3)) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, extra_headers={"x-pipesd-provenance": "1"}
        )
        chunks = [item async for item in stream]
    marks = [(item.model_extra or {}).get("pipesd", {}).get("provenance", []) for item in chunks]
    spans = [span for mark in marks for span in mark]
    assert "".join(span["text"] for span in spans) == ANSWER
    assert {span["source"] for span in spans} == {"drafted", "corrected"}


async def test_timings(fake: MakeFake) -> None:
    """llama.cpp's names stand beside ours, and the usage keeps its shape."""
    async with client_of(fake(chunk_tokens=3)) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, seed=7)
    extra = answer.model_extra or {}
    assert answer.usage is not None
    assert extra["timings"]["predicted_n"] == answer.usage.completion_tokens
    assert extra["timings"]["prompt_n"] == answer.usage.prompt_tokens
    assert extra["timings"]["draft_n_accepted"] == extra["pipesd"]["draft_tokens_accepted"] > 0
    assert extra["pipesd"]["seed"] == 7
