"""OpenAI's client on /v1/responses of the real stack: text, conversations, tools, JSON, errors, leaving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.conftest import Verifier
from tests.integration.session_client import cut_short

from .live import ENOUGH, MESSAGES, NUM_TOKENS, QUESTION, SCHEMA, City
from .stack import server_client

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

TOOL: Any = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}
NEXT = "And of Italy?"


@pytest.fixture(scope="module")
def verifier(embedded_verifier: Verifier) -> Verifier:
    """The whole model: calls that a model of a few layers is made to write have no end."""
    return embedded_verifier


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def fields(verifier: Verifier) -> dict[str, Any]:
    return {"model": verifier.model, "temperature": 0, "max_output_tokens": NUM_TOKENS}


async def test_text(client: AsyncOpenAI, fields: dict[str, Any], expected: str) -> None:
    """The target's text, whole and from the events, with the same counts."""
    whole: Any = await client.responses.create(input=QUESTION, **fields)
    async with client.responses.stream(input=QUESTION, **fields) as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        streamed: Any = await stream.get_final_response()
    assert whole.output_text == "".join(texts) == streamed.output_text == expected
    assert whole.usage.total_tokens == streamed.usage.total_tokens
    assert whole.usage.output_tokens <= NUM_TOKENS
    assert whole.model_extra["pipesd"]["route"] == streamed.model_extra["pipesd"]["route"] == "collaborative"


@pytest.mark.client
async def test_a_conversation_goes_on(
    client: AsyncOpenAI, verifier: Verifier, fields: dict[str, Any], expected: str
) -> None:
    """`previous_response_id` asks what the server is asked with the whole conversation."""
    first = await client.responses.create(input=QUESTION, **fields)
    second = await client.responses.create(input=NEXT, previous_response_id=first.id, **fields)
    turns = [*MESSAGES, {"role": "assistant", "content": expected}, {"role": "user", "content": NEXT}]
    async with server_client(verifier) as server:
        theirs = await server.chat.completions.create(
            model=verifier.model, messages=turns, temperature=0, max_tokens=NUM_TOKENS
        )
    assert second.output_text == theirs.choices[0].message.content
    assert (await client.responses.retrieve(second.id)).output_text == second.output_text


@pytest.mark.client
async def test_tools_both_ways(client: AsyncOpenAI, fields: dict[str, Any]) -> None:
    """A call that must be made fits its schema; its result goes back, and the model answers with text."""
    asked: Any = fields | {"tools": [TOOL], "store": False}
    calling = asked | {"tool_choice": "required", "max_output_tokens": ENOUGH}
    async with client.responses.stream(input=MESSAGES, **calling) as events:
        answer: Any = await events.get_final_response()
    call = answer.output[-1]
    assert (answer.status, call.type, call.name) == ("completed", "function_call", "look")
    City.model_validate_json(call.arguments)
    made = {"type": "function_call", "call_id": call.call_id, "name": "look", "arguments": call.arguments}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = await client.responses.create(input=[*MESSAGES, made, result], **asked, tool_choice="none")
    assert [item.type for item in after.output] == ["message"]
    assert after.output_text


@pytest.mark.client
async def test_json(client: AsyncOpenAI, fields: dict[str, Any]) -> None:
    """The client's `parse` reads its own class back, from an answer that was drafted here."""
    answer: Any = await client.responses.parse(
        input=QUESTION, text_format=City, **fields | {"max_output_tokens": ENOUGH}
    )
    assert isinstance(answer.output_parsed, City)
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


@pytest.mark.parametrize(
    ("wrong", "error", "param"),
    [
        ({"model": "gpt-6"}, openai.NotFoundError, "model"),
        ({"max_output_tokens": 0}, openai.BadRequestError, "max_output_tokens"),
        ({"input": "word " * 2100}, openai.BadRequestError, "input"),
    ],
    ids=["model", "limit", "prompt"],
)
@pytest.mark.client
async def test_errors(
    client: AsyncOpenAI, fields: Any, wrong: Any, error: type[openai.APIStatusError], param: str
) -> None:
    """The client's own exceptions, naming the parameter."""
    with pytest.raises(error) as caught:
        await client.responses.create(**{"input": QUESTION} | fields | wrong)
    assert getattr(caught.value, "param", None) == param


@pytest.mark.client
async def test_leaving(client: AsyncOpenAI, verifier: Verifier, fields: dict[str, Any]) -> None:
    """A stream that is closed ends the request on the server."""
    asked: Any = fields | {"max_output_tokens": 1500, "extra_body": {"ignore_eos": True}}
    async with cut_short(verifier):
        stream: Any = await client.responses.create(input=QUESTION, stream=True, **asked)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
