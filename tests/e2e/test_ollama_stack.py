"""Ollama's client on the real stack: discovery, chat, generate, tools, JSON, errors, leaving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest
import pytest_asyncio
from ollama import AsyncClient

from tests.conftest import Verifier
from tests.integration.session_client import cut_short

from .live import ENOUGH, MESSAGES, NUM_TOKENS, QUESTION, SCHEMA, City
from .stack import server_client

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

GREEDY = {"temperature": 0, "num_predict": NUM_TOKENS}
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: str) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(host=gateway, trust_env=False)
    yield client
    await client._client.aclose()


@pytest.mark.client
async def test_discovery(client: AsyncClient, verifier: Verifier) -> None:
    """The server's model is listed with its routes, and shown with its context and what it can do."""
    names = [model.model for model in (await client.list()).models]
    assert names == [verifier.model, f"{verifier.model}:cloud", f"{verifier.model}:local"]
    assert [model.model for model in (await client.ps()).models] == names
    async with server_client(verifier) as server:
        [card] = [card async for card in server.models.list()]
    shown = await client.show(verifier.model)
    assert shown.modelinfo is not None
    assert shown.modelinfo["pipesd.context_length"] == (card.model_extra or {})["max_model_len"]
    assert shown.capabilities == ["completion"]
    assert "<|im_start|>" in (shown.template or "")


async def test_chat(client: AsyncClient, verifier: Verifier, expected: str) -> None:
    """The target's text, whole and in lines, with its counts."""
    whole = await client.chat(verifier.model, MESSAGES, options=GREEDY)
    stream = await client.chat(f"{verifier.model}:latest", MESSAGES, options=GREEDY, stream=True)
    lines = [line async for line in stream]
    assert whole.message.content == "".join(line.message.content or "" for line in lines) == expected
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert whole.prompt_eval_count == lines[-1].prompt_eval_count
    assert whole.eval_count == lines[-1].eval_count
    assert whole.done_reason == lines[-1].done_reason


@pytest.mark.client
async def test_generate(client: AsyncClient, verifier: Verifier, expected: str) -> None:
    """A prompt is the user's message; a system text changes the answer's prompt."""
    whole = await client.generate(verifier.model, QUESTION, options=GREEDY)
    stream = await client.generate(verifier.model, QUESTION, options=GREEDY, stream=True)
    lines = [line async for line in stream]
    assert whole.response == "".join(line.response or "" for line in lines) == expected
    told = await client.generate(verifier.model, QUESTION, system="Be brief.", options=GREEDY)
    assert told.response
    assert told.prompt_eval_count != whole.prompt_eval_count


@pytest.mark.client
async def test_options(client: AsyncClient, verifier: Verifier, expected: str) -> None:
    """A limit and a stop string cut the target's text; a seed gives the same sampled text again."""
    cut = await client.chat(verifier.model, MESSAGES, options=GREEDY | {"num_predict": 2})
    assert (cut.done_reason, cut.eval_count) == ("length", 2)
    assert expected.startswith(cut.message.content or "-")
    stop = expected[4:9]
    stopped = await client.chat(verifier.model, MESSAGES, options=GREEDY | {"stop": [stop]})
    assert (stopped.done_reason, stopped.message.content) == ("stop", expected[: expected.index(stop)])
    seeded = GREEDY | {"temperature": 1.0, "seed": 11}
    first, again = [await client.chat(verifier.model, MESSAGES, options=seeded) for _ in range(2)]
    assert first.message.content == again.message.content != expected


@pytest.mark.client
async def test_json(client: AsyncClient, verifier: Verifier) -> None:
    """An answer of a given form."""
    options = GREEDY | {"num_predict": ENOUGH}
    answer = await client.chat(verifier.model, MESSAGES, format=SCHEMA, options=options)
    City.model_validate_json(answer.message.content or "")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.client
async def test_tools_both_ways(client: AsyncClient, verifier: Verifier, stream: bool) -> None:
    """Ollama cannot force a call: calls and text are the server's own; so after an earlier call."""
    call = {"function": {"name": "look", "arguments": {"city": "Paris"}}}
    turns: Any = [
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "look", "content": "sunny"},
    ]
    text, calls = "", []
    if stream:
        lines = [
            line
            async for line in await client.chat(
                verifier.model, turns, tools=[TOOL], options=GREEDY, stream=True
            )
        ]
    else:
        lines = [await client.chat(verifier.model, turns, tools=[TOOL], options=GREEDY)]
    for line in lines:
        text += line.message.content or ""
        calls += [each.function.name for each in line.message.tool_calls or []]
    told = {"id": "call_1", "type": "function"}
    theirs_turns: Any = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [told | {"function": {"name": "look", "arguments": '{"city": "Paris"}'}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    async with server_client(verifier) as server:
        theirs = await server.chat.completions.create(
            model=verifier.model, messages=theirs_turns, tools=[TOOL], temperature=0, max_tokens=NUM_TOKENS
        )
    message: Any = theirs.choices[0].message
    assert text == (message.content or "")
    assert calls == [each.function.name for each in message.tool_calls or []]
    assert text or calls


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": "llama3"}, 404, "llama3"),
        ({"options": {"temperature": 9}}, 400, "temperature must be in"),
        ({"messages": [{"role": "user", "content": "word " * 2100}]}, 400, "2048"),
    ],
    ids=["model", "option", "prompt"],
)
@pytest.mark.client
async def test_errors(
    client: AsyncClient, verifier: Verifier, fields: dict[str, Any], status: int, word: str
) -> None:
    """The client's error, with the status and a sentence that names what is wrong."""
    with pytest.raises(ollama.ResponseError) as caught:
        await client.chat(**({"model": verifier.model, "messages": MESSAGES} | fields))
    assert (caught.value.status_code, word in caught.value.error) == (status, True), caught.value.error


@pytest.mark.client
async def test_leaving(gateway: str, verifier: Verifier) -> None:
    """A connection that is closed in mid-answer ends the request on the server."""
    body = {
        "model": verifier.model,
        "messages": [{"role": "user", "content": "Count to a thousand, one by one."}],
    }
    async with (
        cut_short(verifier),
        httpx.AsyncClient(base_url=gateway, trust_env=False, timeout=60.0) as http,
        http.stream("POST", "/api/chat", json=body | {"options": {"temperature": 0}}) as response,
    ):
        await anext(response.aiter_lines())
