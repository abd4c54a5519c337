"""Log-probabilities of collaborative answers against those of vLLM's own API, the same server's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.conftest import Verifier

from .stack import agent_of, gateway_client, server_client

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Schreibe einen Satz über Käse 🧀."}],
    "temperature": 0,
    "max_tokens": 12,
    "logprobs": True,
    "top_logprobs": 3,
}
RAW: dict[str, Any] = {"prompt": "The 日本 flag is", "temperature": 0, "max_tokens": 8, "logprobs": 2}
TOLERANCE = 1e-3
"""The order of float32 sums depends on how many rows a pass has."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(verifier: Verifier) -> AsyncIterator[tuple[AsyncOpenAI, AsyncOpenAI]]:
    """OpenAI's client of the whole stack, and of the server alone."""
    async with (
        agent_of(verifier) as agent,
        gateway_client(agent) as ours,
        server_client(verifier) as theirs,
    ):
        yield ours, theirs


Create = Callable[[AsyncOpenAI], Any]


def of_chat(client: AsyncOpenAI) -> Any:
    return client.chat.completions.create


def of_completions(client: AsyncOpenAI) -> Any:
    return client.completions.create


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a JSON value with their places."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{path}[{index}]")
    else:
        yield path, value


def plain(value: object) -> object:
    """Models of the client as JSON values."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.model_dump() if isinstance(value, BaseModel) else value


def assert_same(mine: Any, expected: Any) -> None:
    """Same places and texts; numbers within `TOLERANCE`."""
    ours, theirs = dict(flat(plain(mine))), dict(flat(plain(expected)))
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        wanted = theirs[place]
        same = pytest.approx(wanted, abs=TOLERANCE) if isinstance(wanted, float) else wanted
        assert value == same, place


@pytest.mark.parametrize(
    ("create", "fields"),
    [(of_chat, CHAT), (of_chat, CHAT | {"top_logprobs": 0}), (of_completions, RAW)],
    ids=["chat", "chosen only", "completions"],
)
async def test_values_are_the_servers(
    verifier: Verifier, clients: tuple[AsyncOpenAI, AsyncOpenAI], create: Create, fields: dict[str, Any]
) -> None:
    """Tokens, bytes, offsets and alternatives are the server's own, whole and streamed."""
    ours, theirs = clients
    expected = await create(theirs)(model=verifier.model, **fields)
    mine = await create(ours)(model=verifier.model, **fields)
    assert mine.model_extra["pipesd"]["route"] == "collaborative"
    assert_same(mine.choices[0].logprobs, expected.choices[0].logprobs)
    stream = await create(ours)(model=verifier.model, stream=True, **fields)
    parts = [dict(chunk.choices[0].logprobs or ()) async for chunk in stream]
    for name, values in dict(mine.choices[0].logprobs).items():
        if values is not None:  # `refusal`
            assert_same([each for part in parts for each in part.get(name) or ()], values)


async def test_stop_string(verifier: Verifier, clients: tuple[AsyncOpenAI, AsyncOpenAI]) -> None:
    """The tokens of a stop string are reported, those behind it are not: as the server does."""
    ours, theirs = clients
    free = await theirs.completions.create(model=verifier.model, **RAW)
    stop = free.choices[0].text[6:9]
    expected = await theirs.completions.create(model=verifier.model, stop=stop, **RAW)
    mine = await ours.completions.create(model=verifier.model, stop=stop, **RAW)
    assert expected.choices[0].finish_reason == "stop"
    assert mine.choices[0].text == expected.choices[0].text
    assert_same(mine.choices[0].logprobs, expected.choices[0].logprobs)


async def test_two_answers(verifier: Verifier, clients: tuple[AsyncOpenAI, AsyncOpenAI]) -> None:
    """Several answers are the server's, each with its own log-probabilities."""
    fields = CHAT | {"n": 2, "temperature": 0.8, "max_tokens": 2}
    raw = await clients[0].chat.completions.with_raw_response.create(model=verifier.model, **fields)
    assert raw.headers["x-pipesd-route"] == "collaborative; reason=default"
    choices = raw.parse().choices
    assert len(choices) == 2
    assert all(choice.logprobs and len(choice.logprobs.content or ()) == 2 for choice in choices)


async def test_a_prompt_is_scored(clients: tuple[AsyncOpenAI, AsyncOpenAI]) -> None:
    """`echo` without an answer: the prompt with its log-probabilities and no new token, as vLLM gives it."""
    body: dict[str, Any] = {"prompt": "The sky is blue", "echo": True, "logprobs": 1, "max_tokens": 0}
    ours, theirs = [
        await of_completions(client)(model=(await client.models.list()).data[0].id, **body)
        for client in clients
    ]
    assert ours.choices[0].text == "The sky is blue"
    assert ours.choices[0].logprobs.tokens == theirs.choices[0].logprobs.tokens
    assert ours.choices[0].logprobs.token_logprobs[1:] == pytest.approx(
        theirs.choices[0].logprobs.token_logprobs[1:], abs=TOLERANCE
    )
    assert ours.usage.completion_tokens == theirs.usage.completion_tokens
