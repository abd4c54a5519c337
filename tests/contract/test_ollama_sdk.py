"""Ollama's API under a real server, called with Ollama's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import ollama
import pytest
from ollama import AsyncClient

from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator

from .scripted import ANSWER, MODEL, SCHEMA, WEATHER, answering, calling, gateway

MESSAGES: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@asynccontextmanager
async def client_of(generator: FakeGenerator, **options: Any) -> AsyncIterator[AsyncClient]:
    async with gateway(generator, options.pop("server_key", None)) as url:
        client = AsyncClient(host=url, trust_env=False, **options)
        try:
            yield client
        finally:
            await client._client.aclose()


async def test_discovery() -> None:
    """A client that looks for backends finds version, models, context length and capabilities."""
    async with client_of(answering()) as client:
        listed = await client.list()
        shown = await client.show(MODEL)
        running = await client.ps()
        version = (await client._client.get("/api/version")).json()["version"]
    assert [model.model for model in listed.models] == [MODEL, f"{MODEL}:cloud", f"{MODEL}:local"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["pipesd.context_length"] == 512
    assert shown.capabilities == ["completion"]
    assert len(running.models) == 3
    assert version.count(".") == 2


async def test_chat() -> None:
    """The client reads text, counts and durations, and finds the model under its default tag too."""
    async with client_of(answering()) as client:
        answer = await client.chat(MODEL + ":latest", MESSAGES)
    assert (answer.message.content, answer.done, answer.done_reason) == (ANSWER, True, "stop")
    assert answer.prompt_eval_count
    assert answer.eval_count
    assert answer.total_duration is not None


async def test_chat_stream() -> None:
    """The lines add up to the answer, and the last has the counts."""
    async with client_of(answering()) as client:
        lines = [line async for line in await client.chat(MODEL, MESSAGES, stream=True)]
    assert "".join(line.message.content or "" for line in lines) == ANSWER
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1].eval_count


async def test_generate() -> None:
    """Completion of a prompt works whole and streamed."""
    async with client_of(answering()) as client:
        whole = await client.generate(MODEL, "hello", system="be brief")
        lines = [line async for line in await client.generate(MODEL, "hello", stream=True)]
    assert whole.response == "".join(line.response or "" for line in lines) == ANSWER


async def test_options() -> None:
    """A limit, a stop string, a seed and options about loading."""
    generator = answering()
    async with client_of(generator) as client:
        cut = await client.chat(MODEL, MESSAGES, options={"num_predict": 2, "seed": 5, "num_ctx": 4096})
        stopped = await client.chat(MODEL, MESSAGES, options={"stop": ["é:"]}, keep_alive="1h")
        large = await client.chat(MODEL, MESSAGES, options={"num_predict": 100_000})
    assert cut.done_reason == "length"
    assert generator.forwarded[0][1]["seed"] == 5
    assert stopped.message.content == "naïve caf"
    assert large.message.content == ANSWER


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_both_ways(stream: bool) -> None:
    """The model's call reaches the client, and the client's result the model, streamed or not."""
    generator = calling()
    async with client_of(generator) as client:
        if stream:
            lines = [line async for line in await client.chat(MODEL, MESSAGES, tools=[TOOL], stream=True)]
            [message] = [line.message for line in lines if line.message.tool_calls]
        else:
            message = (await client.chat(MODEL, MESSAGES, tools=[TOOL])).message
        assert message.tool_calls is not None
        assert message.tool_calls[0].function.name == "weather"
        assert message.tool_calls[0].function.arguments == {"city": "Paris"}
        result: Any = {"role": "tool", "tool_name": "weather", "content": "rain"}
        await client.chat(MODEL, [*MESSAGES, message, result], tools=[TOOL])
    messages = generator.forwarded[-1][1]["messages"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == WEATHER
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]


async def test_thinking_and_format() -> None:
    """Thoughts have their own field; a schema goes through to the server."""
    generator = calling(({"reasoning": "hm"}, {"content": WEATHER}), "stop")
    async with client_of(generator) as client:
        answer = await client.chat(f"{MODEL}:cloud", MESSAGES, think=True, format=SCHEMA)
    assert (answer.message.thinking, answer.message.content) == ("hm", WEATHER)
    sent = generator.forwarded[0][1]
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}


async def test_loading_a_model_generates_nothing() -> None:
    """A request without messages or prompt only asks whether the model is there."""
    generator = answering()
    async with client_of(generator) as client:
        answers = [await client.chat(MODEL, []), await client.generate(MODEL, "")]
        answers.append(await client.generate(MODEL, "", keep_alive=0))
    assert [answer.done_reason for answer in answers] == ["load", "load", "unload"]
    assert not generator.records


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": "llama3"}, 404, "llama3"),
        ({"model": f"{MODEL}:local", "options": {"temperature": 9}}, 400, "options.temperature"),
        ({"options": {"num_predict": 3, "max_tokens": 4}}, 400, "options.num_predict"),
        ({"logprobs": True}, 400, "logprobs"),
    ],
)
async def test_bad_input(fields: dict[str, Any], status: int, word: str) -> None:
    """Bad input raises the client's error with status and a sentence that names what is wrong."""
    async with client_of(answering()) as client:
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat(**({"model": MODEL, "messages": MESSAGES} | fields))
    assert caught.value.status_code == status
    assert word in caught.value.error


async def test_keys_and_what_is_not_there() -> None:
    """A missing key and a path of Ollama's that is not served are errors in Ollama's shape."""
    async with client_of(answering(), server_key="k") as client:
        with pytest.raises(ollama.ResponseError, match="key"):
            await client.list()
    async with client_of(answering()) as client:
        assert (await client.pull(MODEL)).status == "success"
        with pytest.raises(ollama.ResponseError, match="'llama3' not found"):
            await client.pull("llama3")
        assert await client.generate(MODEL, "Once", raw=True)
        with pytest.raises(ollama.ResponseError, match="Out of scope"):
            await client.copy(MODEL, "mine")


async def test_a_failure_in_mid_stream() -> None:
    """The client raises a failure in mid-stream."""
    generator = answering(error=CloudUnreachable("lost"), error_after=3)
    async with client_of(generator) as client:
        stream = await client.chat(MODEL, MESSAGES, stream=True)
        with pytest.raises(ollama.ResponseError, match="lost"):
            _ = [line async for line in stream]


async def test_a_client_that_leaves_ends_the_generation() -> None:
    """Closing the connection ends the generation."""
    generator = answering("hello " * 30, gate=asyncio.Event())
    body = {"model": MODEL, "messages": MESSAGES}
    async with gateway(generator) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        async with client.stream("POST", "/api/chat", json=body) as response:
            async for _ in response.aiter_lines():
                break
        await asyncio.wait_for(generator.records[0].ended.wait(), 20)
    assert generator.records[0].closed_early
