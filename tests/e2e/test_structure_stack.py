"""OpenAI's client on the real stack: calls that must be made, answers that must have a form, retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.conftest import Verifier

from .live import ENOUGH, MESSAGES, NUM_TOKENS, SCHEMA, City
from .stack import relay_to, server_client, stack_behind

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

GREEDY: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": ENOUGH}
NAMES = ("look", "search")
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}} for name in NAMES
]


@pytest.fixture(scope="module")
def verifier(embedded_verifier: Verifier) -> Verifier:
    """The whole model: calls that a model of a few layers is made to write have no end."""
    return embedded_verifier


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_a_call_that_must_be_made(client: AsyncOpenAI, verifier: Verifier) -> None:
    """`tool_choice: required` is a call of one of the tools, whose result goes back for a text."""
    fields: Any = GREEDY | {"model": verifier.model, "tools": TOOLS, "parallel_tool_calls": False}
    answer: Any = await client.chat.completions.create(tool_choice="required", **fields)
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert call.id
    assert (choice.finish_reason, call.type, call.function.name in NAMES) == ("tool_calls", "function", True)
    City.model_validate_json(call.function.arguments)
    made = {"role": "assistant", "tool_calls": [call.model_dump(include={"id", "type", "function"})]}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = {"messages": [*MESSAGES, made, result], "max_tokens": 4}
    after = await client.chat.completions.create(tool_choice="none", **fields | turns)
    assert after.choices[0].message.content
    assert after.choices[0].message.tool_calls is None


async def streamed(client: AsyncOpenAI, fields: Any) -> Any:
    async with client.chat.completions.stream(**fields) as events:
        return await events.get_final_completion()


async def test_a_call_by_name(client: AsyncOpenAI, verifier: Verifier) -> None:
    """A tool asked for by name is called, with arguments that fit its schema; vLLM parses, we pass on."""
    by_name: Any = {"type": "function", "function": {"name": "search"}}
    fields: Any = GREEDY | {"model": verifier.model, "tools": TOOLS, "tool_choice": by_name}
    for answer in await asyncio.gather(client.chat.completions.create(**fields), streamed(client, fields)):
        [call] = answer.choices[0].message.tool_calls
        assert (call.type, call.function.name) == ("function", "search")
        City.model_validate_json(call.function.arguments)


async def test_json_schema(client: AsyncOpenAI, verifier: Verifier) -> None:
    """Drafted here, the JSON is the server's own, and the client reads its class back from it."""
    fields: Any = GREEDY | {"model": verifier.model, "response_format": City}
    async with server_client(verifier) as server:
        whole, stream, theirs = await asyncio.gather(
            client.chat.completions.parse(**fields),
            streamed(client, fields),
            server.chat.completions.parse(**fields),
        )
    for answer in (whole, stream):
        [choice] = answer.choices
        assert isinstance(choice.message.parsed, City)
        assert choice.message.content == theirs.choices[0].message.content
    # The client's own sum of a stream leaves extensions out.
    assert whole.model_extra["pipesd"]["route"] == "collaborative"


async def test_json_object(client: AsyncOpenAI, verifier: Verifier) -> None:
    """Without a schema it is some object, or the beginning of one that the limit cuts off."""
    form: Any = {"type": "json_object"}
    fields = GREEDY | {"model": verifier.model, "response_format": form, "max_tokens": NUM_TOKENS}
    answer: Any = await client.chat.completions.create(**fields)
    text = answer.choices[0].message.content
    assert text.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


async def test_retries(verifier: Verifier) -> None:
    """The client's own retries bridge the time that the verifier is away, and get the whole answer."""
    fields: Any = GREEDY | {"model": verifier.model, "max_tokens": 4}
    async with relay_to(verifier) as relay, stack_behind(relay, verifier, fallback="error") as client:
        expected = await client.chat.completions.create(**fields)
        await relay.cut()
        raw = client.with_options(max_retries=8).chat.completions.with_raw_response
        asking = asyncio.create_task(raw.create(**fields))
        await relay.restore_after(1.0)
        answer = await asking
    assert answer.parse().choices[0].message.content == expected.choices[0].message.content
    assert answer.retries_taken > 0
