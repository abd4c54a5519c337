"""/v1/responses under a real server, called with OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator

from .scripted import ANSWER, LOCAL, MODEL, SCHEMA, WEATHER, answering, calling, gateway

TOOL: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
THINKING = ({"reasoning": "hm"}, {"content": "hel"}, {"content": "lo"})


@asynccontextmanager
async def client_of(generator: FakeGenerator) -> AsyncIterator[AsyncOpenAI]:
    async with (
        gateway(generator) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_whole() -> None:
    """The client reads text, status, usage and our extension."""
    async with client_of(answering()) as client:
        answer = await client.responses.create(model=MODEL, input="hello", instructions="be brief")
    assert (answer.output_text, answer.status) == (ANSWER, "completed")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.model_extra is not None
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


async def test_the_sdks_stream_helper() -> None:
    """The client's own accumulator takes our events, and its text is the answer's."""
    async with (
        client_of(answering()) as client,
        client.responses.stream(model=MODEL, input="hello") as stream,
    ):
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        answer = await stream.get_final_response()
    assert "".join(texts) == answer.output_text == ANSWER
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_both_ways(stream: bool) -> None:
    """The model's call reaches the client, and the client's result the model, streamed or not."""
    generator = calling()
    request: Any = {"model": MODEL, "tools": [TOOL], "store": False, "tool_choice": "auto"}
    question: Any = [{"role": "user", "content": "weather?"}]
    async with client_of(generator) as client:
        if stream:
            async with client.responses.stream(**request, input=question) as events:
                answer: Any = await events.get_final_response()
        else:
            answer = await client.responses.create(**request, input=question)
        [call] = answer.output
        assert (call.type, call.name, call.arguments) == ("function_call", "weather", WEATHER)
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        echoed = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": WEATHER}
        await client.responses.create(**request, input=[*question, echoed, result])
    messages = generator.forwarded[-1][1]["messages"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == "call_1"
    assert messages[2]["content"] == "rain"


async def test_reasoning_items() -> None:
    """Thoughts come as an item of their own, before the message, with their own deltas."""
    async with (
        client_of(calling(THINKING, "stop")) as client,
        client.responses.stream(model=f"{MODEL}:cloud", input="hello") as stream,
    ):
        kinds = [event.type async for event in stream]
        answer = await stream.get_final_response()
    assert "response.reasoning_text.delta" in kinds
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text == "hello"


async def test_json_schema() -> None:
    """The client's `parse` sends its schema through and reads the object back."""

    class Weather(BaseModel):
        city: str

    generator = calling(({"content": WEATHER},), "stop")
    async with client_of(generator) as client:
        answer = await client.responses.parse(model=f"{MODEL}:cloud", input="weather?", text_format=Weather)
    assert answer.output_parsed == Weather(city="Paris")
    sent = generator.forwarded[0][1]["response_format"]["json_schema"]
    assert (sent["name"], sent["schema"]["required"]) == ("Weather", ["city"])


@pytest.mark.parametrize("stream", [False, True])
async def test_conversations_go_on(stream: bool) -> None:
    """`previous_response_id` brings the earlier turns back, but not their instructions."""
    generator = answering()
    async with client_of(generator) as client:
        if stream:
            async with client.responses.stream(model=MODEL, input="hello", instructions="x") as events:
                first: Any = await events.get_final_response()
        else:
            first = await client.responses.create(model=MODEL, input="hello", instructions="x")
        await client.responses.create(model=MODEL, input="world", previous_response_id=first.id)
        again = await client.responses.retrieve(first.id)
        await client.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="x", previous_response_id=first.id)
    assert again.output_text == ANSWER
    assert caught.value.code == "previous_response_not_found"
    contents = [[message["content"] for message in body["messages"]] for _, body in generator.forwarded]
    assert contents == [["x", "hello"], ["hello", ANSWER, "world"]]


async def test_store_false_keeps_nothing() -> None:
    """What was not to be stored cannot be retrieved."""
    async with client_of(answering()) as client:
        answer = await client.responses.create(model=MODEL, input="hello", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(answer.id)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-6"}, openai.NotFoundError, "model"),
        ({"background": True}, openai.BadRequestError, "background"),
        ({"model": LOCAL, "max_output_tokens": 0}, openai.BadRequestError, "max_output_tokens"),
        ({"model": LOCAL, "input": []}, openai.BadRequestError, "input"),
        (
            {"tools": [{"type": "file_search", "vector_store_ids": []}]},
            openai.BadRequestError,
            "tools[0].type",
        ),
        ({"conversation": "c"}, openai.BadRequestError, "conversation"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_input(
    fields: dict[str, Any], error: type[openai.APIStatusError], param: str, stream: bool
) -> None:
    """Bad input is a 4xx before anything is streamed, and names the field as this API calls it."""
    async with client_of(answering()) as client:
        with pytest.raises(error) as caught:
            await client.responses.create(**({"model": MODEL, "input": "hi", "stream": stream} | fields))
    assert getattr(caught.value, "param", None) == param


async def test_a_prompt_beyond_the_context() -> None:
    """A 400 that names the field; of a stream, as OpenAI has it, the last event."""
    async with client_of(answering()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="word " * 600)
        streamed = await client.responses.create(model=MODEL, input="word " * 600, stream=True)
        last = [event async for event in streamed][-1]
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == caught.value.code  # type: ignore[comparison-overlap] # not in its types


async def test_a_failure_in_mid_stream() -> None:
    """The last event says what went wrong and has the text so far."""
    generator = answering(error=CloudUnreachable("lost"), error_after=3)
    async with client_of(generator) as client:
        events = [e async for e in await client.responses.create(model=MODEL, input="hello", stream=True)]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "lost" in last.response.error.message
    assert ANSWER.startswith(last.response.output_text)


async def test_a_client_that_leaves_ends_the_generation() -> None:
    """Closing the stream ends the generation."""
    generator = answering("hello " * 30, gate=asyncio.Event())
    async with client_of(generator) as client:
        stream = await client.responses.create(model=MODEL, input="hello", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await asyncio.wait_for(generator.records[0].ended.wait(), 20)
    assert generator.records[0].closed_early


async def test_tools_that_only_openai_runs_are_left_out_visibly() -> None:
    """What agents offer by default does not stop them; a header says what the model was not offered."""
    generator = calling()
    tools: Any = [TOOL, {"type": "web_search"}]
    async with client_of(generator) as client:
        raw = await client.responses.with_raw_response.create(model=MODEL, input="hi", tools=tools)
    assert raw.headers["x-pipesd-left-out"] == "web_search"
    assert [tool.type for tool in raw.parse().tools] == ["function"]
    assert len(generator.forwarded[0][1]["tools"]) == 1
