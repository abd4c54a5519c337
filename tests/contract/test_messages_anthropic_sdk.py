"""/v1/messages under a real server, called with Anthropic's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from edge_agent.errors import CloudRefused, CloudUnreachable
from edge_agent.testing import FakeGenerator

from .scripted import ANSWER, MODEL, SCHEMA, WEATHER, answering, calling, gateway

USER: Any = {"role": "user", "content": "hello"}
TOOL: Any = {"name": "weather", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}
REQUEST: Any = {"model": MODEL, "max_tokens": 64, "messages": [USER]}
THINKING = ({"reasoning": "hm"}, {"content": "hel"}, {"content": "lo"})


@asynccontextmanager
async def client_of(
    generator: FakeGenerator, key: str = "none", server_key: str | None = None
) -> AsyncIterator[AsyncAnthropic]:
    async with (
        gateway(generator, server_key) as url,
        AsyncAnthropic(base_url=url, api_key=key, auth_token=None, max_retries=0) as client,
    ):
        yield client


async def test_whole() -> None:
    """The client reads text, stop reason, usage and our extension."""
    async with client_of(answering()) as client:
        message = await client.messages.create(**REQUEST, system="be brief")
    [block] = message.content
    assert block.type == "text"
    assert (block.text, message.stop_reason) == (ANSWER, "end_turn")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
    assert message.model_extra is not None
    assert message.model_extra["pipesd"]["route"] == "collaborative"


async def test_the_sdks_stream_helper() -> None:
    """The client's own accumulator takes our events, and its text is the answer's."""
    async with client_of(answering()) as client, client.messages.stream(**REQUEST) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert "".join(texts) == ANSWER
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_both_ways(stream: bool) -> None:
    """The model's call reaches the client, and the client's result the model, streamed or not."""
    generator = calling()
    request: Any = {"model": MODEL, "max_tokens": 64, "tools": [TOOL], "tool_choice": {"type": "auto"}}
    async with client_of(generator) as client:
        if stream:
            async with client.messages.stream(**request, messages=[USER]) as events:
                message: Any = await events.get_final_message()
        else:
            message = await client.messages.create(**request, messages=[USER])
        [call] = message.content
        assert (message.stop_reason, call.name, call.input) == ("tool_use", "weather", {"city": "Paris"})
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        turns = [
            USER,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ]
        await client.messages.create(**request, messages=turns)
    messages = generator.forwarded[-1][1]["messages"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == WEATHER
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


async def test_thinking() -> None:
    """Thoughts are a block of their own, and go back to the model with the next turn."""
    generator = calling(THINKING, "stop")
    request = REQUEST | {"model": f"{MODEL}:cloud"}
    async with client_of(generator) as client:
        async with client.messages.stream(**request, thinking={"type": "adaptive"}) as stream:
            message = await stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "text"]
        turns = [USER, {"role": "assistant", "content": message.content}, USER]
        await client.messages.create(**request | {"messages": turns})
    assert generator.forwarded[-1][1]["messages"][1]["reasoning"] == "hm"


async def test_stop_and_limit() -> None:
    """A stop sequence and a limit end the answer; a limit beyond the context is the context."""
    async with client_of(answering()) as client:
        stopped: Any = await client.messages.create(**REQUEST, stop_sequences=["é:"])
        cut = await client.messages.create(**REQUEST | {"max_tokens": 2})
        large: Any = await client.messages.create(**REQUEST | {"max_tokens": 20_000})
    assert stopped.content[0].text == "naïve caf"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "é:")
    assert cut.stop_reason == "max_tokens"
    assert large.content[0].text == ANSWER


async def test_counting() -> None:
    """Prompts are counted here, those with tools by the server."""
    async with client_of(calling()) as client:
        plain = await client.messages.count_tokens(model=MODEL, messages=[USER])
        with_tools = await client.messages.count_tokens(model=MODEL, messages=[USER], tools=[TOOL])
    assert plain.input_tokens > 5
    assert with_tools.input_tokens == 42


@pytest.mark.parametrize(("key", "is_right"), [("right", True), ("wrong", False)])
async def test_keys(key: str, is_right: bool) -> None:
    """`x-api-key` opens the door, and a wrong one is the client's authentication error."""
    async with client_of(answering(), key, "right") as client:
        if is_right:
            assert await client.messages.create(**REQUEST)
        else:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await client.messages.create(**REQUEST)
            assert caught.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"model": "claude"}, anthropic.NotFoundError, "claude"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        (
            {"model": f"{MODEL}:local", "stop_sequences": ["x"] * 65},
            anthropic.BadRequestError,
            "stop_sequences",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, anthropic.BadRequestError, "tools[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            anthropic.BadRequestError,
            "messages[0].content[0].type",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_input(
    fields: dict[str, Any], error: type[anthropic.APIStatusError], word: str, stream: bool
) -> None:
    """Bad input is a 4xx before anything is streamed, in Anthropic's shape, and names what is wrong."""
    async with client_of(answering()) as client:
        with pytest.raises(error) as caught:
            await client.messages.create(**(REQUEST | {"stream": stream} | fields))
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert word in body["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_token(stream: bool) -> None:
    """An overloaded server is a rate limit, which the client may retry."""
    async with client_of(answering(error=CloudRefused("overloaded", "busy"))) as client:
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(**REQUEST, stream=stream)


async def test_a_failure_in_mid_stream() -> None:
    """The client raises a failure in mid-stream after the text before it."""
    generator = answering(error=CloudUnreachable("lost"), error_after=3)
    texts: list[str] = []
    async with client_of(generator) as client:
        with pytest.raises(anthropic.APIStatusError, match="lost"):
            await read_into(texts, client)
    assert "".join(texts)
    assert ANSWER.startswith("".join(texts))


async def read_into(texts: list[str], client: AsyncAnthropic) -> None:
    async with client.messages.stream(**REQUEST) as stream:
        async for text in stream.text_stream:
            texts.append(text)  # noqa: PERF401 - what came before the failure counts


async def test_a_client_that_leaves_ends_the_generation() -> None:
    """Closing the stream ends the generation."""
    generator = answering("hello " * 30, gate=asyncio.Event())
    async with client_of(generator) as client:
        async with client.messages.stream(**REQUEST | {"max_tokens": 400}) as stream:
            async for _ in stream.text_stream:
                break
        await asyncio.wait_for(generator.records[0].ended.wait(), 20)
    assert generator.records[0].closed_early
