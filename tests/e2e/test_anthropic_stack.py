"""Anthropic's client on the real stack: text, counts, tools, JSON, errors, leaving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic

from tests.conftest import Verifier
from tests.integration.session_client import cut_short

from .live import ENOUGH, MESSAGES, NUM_TOKENS, SCHEMA, City

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

GREEDY: Any = {"temperature": 0}
"""Anthropic's current models have no temperature, so its client has no parameter for one."""
TOOL: Any = {"name": "look", "description": "Look a city up", "input_schema": SCHEMA, "strict": True}


@pytest.fixture(scope="module")
def verifier(embedded_verifier: Verifier) -> Verifier:
    """The whole model: calls that a model of a few layers is made to write have no end."""
    return embedded_verifier


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: str) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=gateway, api_key="none", auth_token=None, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def request_fields(verifier: Verifier) -> Any:
    return {
        "model": verifier.model,
        "messages": MESSAGES,
        "max_tokens": NUM_TOKENS,
        "extra_body": GREEDY,
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_text(client: AsyncAnthropic, request_fields: Any, expected: str, stream: bool) -> None:
    """The target's text, drafted here; it ends where the server ends it."""
    message: Any
    last: Any
    if stream:
        async with client.messages.stream(**request_fields) as events:
            seen = [event async for event in events]
            message = await events.get_final_message()
        assert "".join(event.text for event in seen if event.type == "text") == expected
        [last] = [event for event in seen if event.type == "message_delta"]
    else:
        message = last = await client.messages.create(**request_fields)
    [block] = message.content
    assert (block.type, block.text) == ("text", expected)
    assert message.usage.output_tokens <= NUM_TOKENS
    assert last.model_extra["pipesd"]["route"] == "collaborative"


@pytest.mark.client
async def test_counts(client: AsyncAnthropic, verifier: Verifier, request_fields: Any) -> None:
    """Both ways of counting agree with the usage."""
    asked: Any = {"model": verifier.model, "messages": MESSAGES}
    message = await client.messages.create(**request_fields)
    plain = await client.messages.count_tokens(**asked)
    with_tools = await client.messages.count_tokens(**asked, tools=[TOOL])
    # How much of the prompt came from a cache may differ; together they are the prompt.
    cached = message.usage.cache_read_input_tokens or 0
    assert plain.input_tokens == message.usage.input_tokens + cached
    assert with_tools.input_tokens >= plain.input_tokens


@pytest.mark.parametrize(
    ("choice", "stream"),
    [({"type": "tool", "name": "look"}, False), ({"type": "any"}, True)],
    ids=["by name, whole", "any, streamed"],
)
@pytest.mark.client
async def test_tools_both_ways(
    client: AsyncAnthropic, request_fields: Any, choice: Any, stream: bool
) -> None:
    """A call that must be made fits its schema; its result goes back, and the model answers with text."""
    fields = request_fields | {"tools": [TOOL], "max_tokens": ENOUGH}
    message: Any
    if stream:
        async with client.messages.stream(**fields, tool_choice=choice) as events:
            message = await events.get_final_message()
    else:
        message = await client.messages.create(**fields, tool_choice=choice)
    call = message.content[-1]
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "look")
    City.model_validate(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after: Any = await client.messages.create(
        **fields | {"messages": turns, "max_tokens": 8}, tool_choice={"type": "none"}
    )
    assert [block.type for block in after.content] == ["text"]
    assert after.usage.input_tokens > message.usage.input_tokens


@pytest.mark.client
async def test_json(client: AsyncAnthropic, request_fields: Any) -> None:
    """An answer of a given form is drafted here, too."""
    form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message: Any = await client.messages.create(**request_fields | {"max_tokens": ENOUGH}, output_config=form)
    City.model_validate_json(message.content[0].text)
    assert message.model_extra["pipesd"]["route"] == "collaborative"


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"model": "claude"}, anthropic.NotFoundError, "claude"),
        ({"messages": [{"role": "user", "content": "word " * 2100}]}, anthropic.BadRequestError, "2048"),
        ({"tools": [TOOL | {"input_schema": {"type": "nonsense"}}]}, anthropic.BadRequestError, "grammar"),
    ],
    ids=["model", "prompt", "tool"],
)
@pytest.mark.client
async def test_errors(
    client: AsyncAnthropic, request_fields: Any, fields: Any, error: type[anthropic.APIStatusError], word: str
) -> None:
    """The client's own exceptions, whoever refuses."""
    with pytest.raises(error) as caught:
        await client.messages.create(**request_fields | fields)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert word in body["error"]["message"]


@pytest.mark.client
async def test_leaving(client: AsyncAnthropic, verifier: Verifier, request_fields: Any) -> None:
    """A stream that is closed ends the request on the server."""
    fields = request_fields | {"max_tokens": 1500, "extra_body": GREEDY | {"ignore_eos": True}}
    async with cut_short(verifier), client.messages.stream(**fields) as events:
        await anext(aiter(events.text_stream))
