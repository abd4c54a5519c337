"""The other protocols' official clients on the real stack: they read the target's own text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from ollama import AsyncClient
from openai import AsyncOpenAI

from edge_agent.agent import EdgeAgent
from openai_gateway.app import create_app
from tests.conftest import Verifier

from .stack import edge_settings, server_client, serving

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "What is the capital of France?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
NUM_TOKENS = 16
GREEDY = {"temperature": 0}
"""Anthropic's current models have no temperature, so its client has no parameter for one."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(verifier: Verifier) -> AsyncIterator[str]:
    """The gateway on a real agent; gives scheme, host and port."""
    agent = await EdgeAgent.start(edge_settings(verifier.base_url, verifier.api_key))
    try:
        async with serving(create_app(agent)) as url:
            yield url
    finally:
        await agent.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(verifier: Verifier) -> str:
    """The server's own answer."""
    async with server_client(verifier) as server:
        answer = await server.chat.completions.create(
            model=verifier.model, messages=MESSAGES, temperature=0, max_tokens=NUM_TOKENS
        )
    return answer.choices[0].message.content or ""


async def test_responses(gateway: str, verifier: Verifier, expected: str) -> None:
    """OpenAI's client reads the target's text from the events of /v1/responses."""
    async with (
        AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client,
        client.responses.stream(
            model=verifier.model, input=QUESTION, temperature=0, max_output_tokens=NUM_TOKENS
        ) as stream,
    ):
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(texts) == expected


async def test_messages(gateway: str, verifier: Verifier, expected: str) -> None:
    """Anthropic's client reads the target's text, and both ways of counting agree with the usage."""
    tool: Any = {"name": "look", "input_schema": {"type": "object"}}
    async with AsyncAnthropic(base_url=gateway, api_key="none", auth_token=None, max_retries=0) as client:
        fields: Any = {"model": verifier.model, "messages": MESSAGES}
        async with client.messages.stream(**fields, max_tokens=NUM_TOKENS, extra_body=GREEDY) as stream:
            message = await stream.get_final_message()
        plain = await client.messages.count_tokens(**fields)
        with_tools = await client.messages.count_tokens(**fields, tools=[tool])
    [block] = message.content
    assert block.type == "text"
    assert block.text == expected
    # How much of the prompt came from a cache may differ; together they are the prompt.
    cached = message.usage.cache_read_input_tokens or 0
    assert plain.input_tokens == message.usage.input_tokens + cached
    assert with_tools.input_tokens >= plain.input_tokens


async def test_ollama(gateway: str, verifier: Verifier, expected: str) -> None:
    """Ollama's client finds the model and reads the target's text."""
    client = AsyncClient(host=gateway, trust_env=False)
    listed = await client.list()
    options = {"temperature": 0, "num_predict": NUM_TOKENS}
    answer = await client.chat(str(listed.models[0].model), MESSAGES, options=options)
    await client._client.aclose()
    assert listed.models[0].model == verifier.model
    assert answer.message.content == expected
