"""A model that thinks, on a server with a reasoning parser: thoughts are cut off here as they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from ollama import AsyncClient
from openai import AsyncOpenAI

from openai_gateway.app import create_app
from tests.conftest import Verifier, running_verifier

from .live import City
from .stack import agent_of, server_client, serving
from .thinking_model import NAME, make_thinking_pair

# A server of its own; what becomes of thoughts in each protocol is tested without one, too.
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "In which country is Paris, and what is it known for?"
NUM_TOKENS = 12
FIELDS: Any = {
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "max_tokens": NUM_TOKENS,
}

Split = tuple[str, str]
"""Thoughts and answer."""


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    """A server with a reasoning parser for a model that thinks."""
    folder = tmp_path_factory.mktemp("thinking")
    draft, target = make_thinking_pair(folder)
    flags = ["--enforce-eager", "--served-model-name", NAME, "--reasoning-parser", "deepseek_r1"]
    with running_verifier(str(target), NAME, str(draft), flags, folder) as verifier:
        yield verifier


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(thinker: Verifier) -> AsyncIterator[str]:
    """The gateway."""
    async with agent_of(thinker) as agent, serving(create_app(agent)) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(thinker: Verifier) -> Split:
    """The server's own."""
    async with server_client(thinker) as server:
        answer: Any = await server.chat.completions.create(model=NAME, **FIELDS)
    message = answer.choices[0].message
    assert message.reasoning
    assert message.content
    return message.reasoning, message.content


async def test_whole(client: AsyncOpenAI, expected: Split) -> None:
    """Drafted here, the thoughts are there under both names; the draft alone has some, too."""
    answer: Any = await client.chat.completions.create(model=NAME, **FIELDS)
    message = answer.choices[0].message
    assert (message.reasoning, message.content) == expected
    assert message.reasoning_content == message.reasoning
    assert answer.model_extra["pipesd"]["route"] == "collaborative"
    local: Any = await client.chat.completions.create(model=f"{NAME}:local", **FIELDS)
    assert local.choices[0].message.reasoning
    assert "think>" not in local.choices[0].message.reasoning + (local.choices[0].message.content or "")


async def test_streamed(client: AsyncOpenAI, expected: Split) -> None:
    """The pieces of both add up, thoughts first."""
    stream: Any = await client.chat.completions.create(model=NAME, stream=True, **FIELDS)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    thoughts = [getattr(delta, "reasoning", None) or "" for delta in deltas]
    texts = [delta.content or "" for delta in deltas]
    assert ("".join(thoughts), "".join(texts)) == expected
    assert max(i for i, thought in enumerate(thoughts) if thought) <= min(i for i, t in enumerate(texts) if t)


async def test_json_comes_after_the_thoughts(client: AsyncOpenAI, thinker: Verifier) -> None:
    """Thoughts are free, the answer has its form: the server's own text, and so for the draft alone."""
    fields = FIELDS | {"max_tokens": 96, "response_format": City}
    async with server_client(thinker) as server:
        theirs: Any = await server.chat.completions.parse(model=NAME, **fields)
    for model in (NAME, f"{NAME}:local"):
        message: Any = (await client.chat.completions.parse(model=model, **fields)).choices[0].message
        assert isinstance(message.parsed, City), model
        assert message.reasoning
        if model == NAME:
            their_message = theirs.choices[0].message
            assert (message.reasoning, message.content) == (their_message.reasoning, their_message.content)


async def test_thinking_switched_off(client: AsyncOpenAI, thinker: Verifier) -> None:
    """A request that wants no thoughts gets what the server makes of them."""
    answer: Any = await client.chat.completions.create(model=NAME, reasoning_effort="none", **FIELDS)
    async with server_client(thinker) as server:
        theirs: Any = await server.chat.completions.create(model=NAME, reasoning_effort="none", **FIELDS)
    assert answer.choices[0].message.content == theirs.choices[0].message.content
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


async def test_other_protocols(url: str, client: AsyncOpenAI, expected: Split) -> None:
    """Anthropic's thinking block, the Responses API's reasoning item and Ollama's `thinking`."""
    async with AsyncAnthropic(base_url=url, api_key="none", auth_token=None, max_retries=0) as anthropic:
        message: Any = await anthropic.messages.create(
            model=NAME, max_tokens=NUM_TOKENS, messages=FIELDS["messages"], extra_body={"temperature": 0}
        )
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.content[0].thinking, message.content[1].text) == expected
    answer: Any = await client.responses.create(
        model=NAME, input=QUESTION, temperature=0, max_output_tokens=NUM_TOKENS
    )
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.output[0].content[0].text, answer.output_text) == expected
    ollama = AsyncClient(host=url, trust_env=False)
    options = {"temperature": 0, "num_predict": NUM_TOKENS}
    chat = await ollama.chat(NAME, FIELDS["messages"], options=options)
    await ollama._client.aclose()
    assert (chat.message.thinking, chat.message.content) == expected
