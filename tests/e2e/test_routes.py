"""Routes, tools and fallback on the real stack: gateway, agent, network, vLLM with the plugin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from tests.conftest import Verifier
from tests.integration.session_client import cut_short

from .stack import Relay, relay_to, server_client, stack_behind

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

MESSAGES: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "strict": True,
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
FIELDS: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 24}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(verifier: Verifier) -> AsyncIterator[tuple[Relay, AsyncOpenAI]]:
    async with relay_to(verifier) as relay, stack_behind(relay, verifier) as client:
        yield relay, client


@pytest_asyncio.fixture(loop_scope="module")
async def client(whole: tuple[Relay, AsyncOpenAI]) -> AsyncIterator[AsyncOpenAI]:
    """A client of a working stack with `fallback = local`; the network is whole again afterwards."""
    relay, client = whole
    yield client
    await relay.restore()


@pytest.fixture
def relay(whole: tuple[Relay, AsyncOpenAI]) -> Relay:
    return whole[0]


def pipesd(answer: Any) -> dict[str, Any]:
    figures: dict[str, Any] = (answer.model_extra or {})["pipesd"]
    return figures


# -- the target's answers ----------------------------------------------------------------------


async def test_what_a_session_cannot_do(verifier: Verifier, client: AsyncOpenAI) -> None:
    """The prompt's log-probabilities: the server's own answer, without drafts and marked."""
    fields = FIELDS | {"extra_body": {"prompt_logprobs": 1}, "max_tokens": 4}
    raw = await client.chat.completions.with_raw_response.create(model=verifier.model, **fields)
    answer = raw.parse()
    async with server_client(verifier) as server:
        theirs = await server.chat.completions.create(model=verifier.model, **fields)
    assert answer.choices[0].message.content == theirs.choices[0].message.content
    assert answer.usage == theirs.usage
    assert raw.headers["x-pipesd-route"] == "collaborative; reason=not drafted: prompt_logprobs"
    assert pipesd(answer)["drafted"] is False
    assert (answer.model_extra or {})["prompt_logprobs"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_two_answers(verifier: Verifier, client: AsyncOpenAI, stream: bool) -> None:
    """Two sampled answers to one question have an index each."""
    fields = FIELDS | {"n": 2, "temperature": 0.8, "seed": 7, "max_tokens": 4}
    if stream:
        chunks = await client.chat.completions.create(model=verifier.model, stream=True, **fields)
        indices = {choice.index async for chunk in chunks for choice in chunk.choices}
    else:
        answer = await client.chat.completions.create(model=verifier.model, **fields)
        indices = {choice.index for choice in answer.choices}
    assert indices == {0, 1}


async def test_same_text_on_both_routes(verifier: Verifier, client: AsyncOpenAI) -> None:
    """Asked for by name, the server's own answer is the collaborative one, streamed and whole."""
    here = await client.chat.completions.create(model=verifier.model, **FIELDS)
    there = await client.chat.completions.create(model=f"{verifier.model}:cloud", **FIELDS)
    stream = await client.chat.completions.create(model=f"{verifier.model}:cloud", stream=True, **FIELDS)
    chunks = [chunk async for chunk in stream]
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert here.choices[0].message.content == there.choices[0].message.content == streamed
    assert (pipesd(here)["route"], pipesd(there)["route"]) == ("collaborative", "cloud")
    assert pipesd(chunks[-1])["route"] == "cloud"
    assert pipesd(here)["verified"] is pipesd(there)["verified"] is True


@pytest.mark.parametrize(
    "sampled",
    [
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.0, "logit_bias": {"28": -100}, "extra_body": {"min_p": 0.02}},
    ],
    ids=["top_p", "min_p and logit_bias"],
)
async def test_same_sampled_text_on_both_routes(
    verifier: Verifier, client: AsyncOpenAI, sampled: dict[str, Any]
) -> None:
    """The seed that the server's own answer was drawn with gives the same text here."""
    fields = FIELDS | sampled
    there = await client.chat.completions.create(model=f"{verifier.model}:cloud", **fields)
    seed = pipesd(there)["seed"]
    assert there.system_fingerprint == f"seed-{seed}"
    here = await client.chat.completions.create(model=verifier.model, **fields | {"seed": seed})
    again = await client.chat.completions.create(model=f"{verifier.model}:cloud", **fields | {"seed": seed})
    texts = {answer.choices[0].message.content for answer in (there, here, again)}
    assert len(texts) == 1


async def test_tools_if_it_wants(verifier: Verifier, client: AsyncOpenAI) -> None:
    """`tool_choice: auto` is the server's own answer, drafted for: words, or calls that it has parsed."""
    raw = await client.chat.completions.with_raw_response.create(
        model=verifier.model, tools=TOOLS, tool_choice="auto", **FIELDS
    )
    answer = raw.parse()
    async with server_client(verifier) as server:
        theirs = await server.chat.completions.create(
            model=verifier.model, tools=TOOLS, tool_choice="auto", **FIELDS
        )
    assert raw.headers["x-pipesd-route"] == "collaborative; reason=default"
    assert (pipesd(answer)["route"], pipesd(answer)["drafted"]) == ("collaborative", True)
    [choice], [their_choice] = answer.choices, theirs.choices
    calls: Any = choice.message.tool_calls or []
    assert [call.function for call in calls] == [
        call.function for call in (their_choice.message.tool_calls or []) if call.type == "function"
    ]
    assert choice.message.content == their_choice.message.content
    assert choice.finish_reason == their_choice.finish_reason
    assert (choice.finish_reason == "tool_calls") == bool(calls)
    assert calls or choice.message.content
    for call in calls:
        assert call.type == "function"
        assert call.id
        assert call.function.name
        json.loads(call.function.arguments)


async def test_json_schema(verifier: Verifier, client: AsyncOpenAI) -> None:
    """A schema is followed."""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await client.chat.completions.create(
        model=f"{verifier.model}:cloud", response_format=wanted, **FIELDS
    )
    assert json.loads(answer.choices[0].message.content or "") in ({"a": 1}, {"a": 2})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"best_of": 2}}, "best_of"),
        ({"n": 0}, "n"),
    ],
)
async def test_what_neither_can_do(
    verifier: Verifier, client: AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    """A 400 that names the parameter, whoever refuses it."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=f"{verifier.model}:cloud", **(FIELDS | fields))
    assert caught.value.param == param


async def test_leaving_ends_it_on_the_server(verifier: Verifier, client: AsyncOpenAI) -> None:
    """Closing a passed-through stream aborts the request in the engine."""
    fields = FIELDS | {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}
    async with cut_short(verifier):
        stream = await client.chat.completions.create(model=f"{verifier.model}:cloud", stream=True, **fields)
        await anext(aiter(stream))
        await stream.close()


# -- the verifier goes away ---------------------------------------------------------------


async def collaborative_again(client: AsyncOpenAI, model: str) -> ChatCompletion:
    """The first answer not of the draft alone: on a busy machine an attempt may be cut off too soon."""
    async with asyncio.timeout(60.0):
        while True:
            answer = await client.chat.completions.create(model=model, **FIELDS)
            if pipesd(answer)["route"] == "collaborative":
                return answer


async def test_the_draft_answers_while_it_is_away(
    verifier: Verifier, client: AsyncOpenAI, relay: Relay
) -> None:
    """Out of reach: the draft's answer, marked; what needs the server is a 503; then all is as before."""
    before = await client.chat.completions.create(model=verifier.model, **FIELDS)
    await relay.cut()
    raw = await client.chat.completions.with_raw_response.create(model=verifier.model, **FIELDS)
    away = raw.parse()
    assert away.choices[0].message.content
    assert raw.headers["x-pipesd-route"] == "local; reason=verifier out of reach"
    assert pipesd(away)["verified"] is False
    with pytest.raises(openai.InternalServerError, match="'n' needs"):
        await client.chat.completions.create(model=verifier.model, n=2, **FIELDS)
    await relay.restore()
    after = await collaborative_again(client, verifier.model)
    assert after.choices[0].message.content == before.choices[0].message.content


async def test_lost_in_mid_answer(verifier: Verifier, client: AsyncOpenAI, relay: Relay) -> None:
    """The text up to the loss is the target's, the rest is marked in the stream, to its end."""
    fields = FIELDS | {"max_tokens": 64, "extra_body": {"ignore_eos": True}}
    expected = await client.chat.completions.create(model=verifier.model, **fields)
    stream = await client.chat.completions.create(model=verifier.model, stream=True, **fields)
    texts: dict[bool, str] = {True: "", False: ""}
    async for chunk in stream:
        if text := chunk.choices[0].delta.content:
            verified = (chunk.model_extra or {}).get("pipesd", {}).get("verified", True)
            assert verified or texts[True]
            texts[verified] += text
            await relay.cut()
    assert chunk.choices[0].finish_reason == "length"
    assert (expected.choices[0].message.content or "").startswith(texts[True])
    assert texts[False]
    assert pipesd(chunk)["reason"] == "verifier lost in mid-answer"
    assert 0 < pipesd(chunk)["unverified_tokens"] < 64


async def test_local_opens_no_connection(verifier: Verifier, client: AsyncOpenAI, relay: Relay) -> None:
    """`NAME:local` is answered without a byte on the network, and says so."""
    num_before = relay.num_connections, relay.num_bytes
    answer = await client.chat.completions.create(model=f"{verifier.model}:local", **FIELDS)
    assert answer.choices[0].message.content
    assert pipesd(answer)["route"] == "local"
    assert (relay.num_connections, relay.num_bytes) == num_before


async def test_waiting_for_it(verifier: Verifier) -> None:
    """With `wait`, an answer cut off for longer than a resume takes goes on, and is whole and verified."""
    fields = FIELDS | {"max_tokens": 48, "extra_body": {"ignore_eos": True}}
    async with relay_to(verifier) as relay, stack_behind(relay, verifier, fallback="wait") as client:
        expected = await client.chat.completions.create(model=verifier.model, **fields)
        num_before = relay.num_connections
        stream = await client.chat.completions.create(model=verifier.model, stream=True, **fields)
        pieces: list[str] = []
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")
            if len(pieces) == 3:
                await relay.cut()
                await relay.restore_after(3.0)
    assert relay.num_connections > num_before
    assert "".join(pieces) == expected.choices[0].message.content
    assert pipesd(chunk)["verified"] is True


async def test_starting_without_it(verifier: Verifier) -> None:
    """The agent starts while nobody answers, and is collaborative once the verifier is back."""
    async with relay_to(verifier) as relay:
        async with stack_behind(relay, verifier):
            pass  # the earlier run
        await relay.cut()
        async with stack_behind(relay, verifier) as client:
            away = await client.chat.completions.create(model=verifier.model, **FIELDS)
            assert pipesd(away)["route"] == "local"
            await relay.restore()
            await collaborative_again(client, verifier.model)


# -- provenance ---------------------------------------------------------------------------


async def test_provenance(verifier: Verifier, client: AsyncOpenAI) -> None:
    """Drafted and corrected spans make up the text, and as many tokens as were generated."""
    headers = {"x-pipesd-provenance": "1", "x-pipesd-mode": "offload"}
    stream = await client.chat.completions.create(
        model=verifier.model, stream=True, extra_headers=headers, **FIELDS
    )
    chunks = [chunk async for chunk in stream]
    spans = [s for c in chunks for s in (c.model_extra or {}).get("pipesd", {}).get("provenance", [])]
    assert "".join(span["text"] for span in spans) == "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks
    )
    ours = {"drafted", "looked_up"}  # which of the two a draft is depends on what was there first
    drafted = sum(span["tokens"] for span in spans if span["source"] in ours)
    assert drafted >= pipesd(chunks[-1])["draft_tokens_accepted"] > 0
