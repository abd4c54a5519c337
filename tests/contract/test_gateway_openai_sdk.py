"""The gateway under a real server, called with OpenAI's own client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import openai
import pytest
import uvicorn
from openai import AsyncOpenAI
from tokenizers import Tokenizer

from edge_agent.api import Route, TargetInfo
from edge_agent.errors import CloudRefused, CloudUnreachable
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.app import create_app

MODEL = "org/target"
ANSWER = "naïve café: 日本語 🙂, and so on."
MESSAGES: Any = [{"role": "user", "content": "hello"}]
DEADLINE_S = 20.0
"""Far beyond what anything here takes, and far below a script that hangs."""
MakeFake = Callable[..., FakeGenerator]
Connect = Callable[..., AbstractAsyncContextManager[AsyncOpenAI]]


@pytest.fixture(scope="module")
def fake() -> MakeFake:
    """`fake(text, **options)`: a fake agent that answers `text`."""
    bundle = fake_tokenizer_bundle([ANSWER, "hello world"])
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    target = TargetInfo(MODEL, 256, tokenizer.get_vocab_size())

    def make(text: str = ANSWER, **options: Any) -> FakeGenerator:
        token_ids = (*tokenizer.encode(text).ids, *bundle.eos_token_ids[-1:])
        return FakeGenerator(target, bundle, Script(token_ids, **options))

    return make


@asynccontextmanager
async def serving(generator: FakeGenerator, api_key: str | None) -> AsyncIterator[str]:
    """The gateway on a free loopback port; gives its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(generator, api_key=api_key), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    listener.listen()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
def connect() -> Connect:
    """`connect(generator)`: an OpenAI client of a gateway on `generator`."""

    @asynccontextmanager
    async def make(
        generator: FakeGenerator, *, key: str = "none", server_key: str | None = None, retries: int = 0
    ) -> AsyncIterator[AsyncOpenAI]:
        async with (
            serving(generator, server_key) as url,
            AsyncOpenAI(base_url=url, api_key=key, max_retries=retries) as client,
        ):
            yield client

    return make


async def test_chat(fake: MakeFake, connect: Connect) -> None:
    """The client reads text, finish reason, usage and our extension."""
    async with connect(fake(chunk_tokens=4)) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model_extra is not None
    assert answer.model_extra["pipesd"]["route"] == "collaborative"


async def test_chat_stream(fake: MakeFake, connect: Connect) -> None:
    """The streamed text is the answer, no piece has a broken character, the usage comes last."""
    async with connect(fake()) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        assert stream.response.headers["x-pipesd-route"] == "collaborative; reason=default"
        chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == ANSWER
    assert not any("\ufffd" in text for text in texts)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["pipesd"]["draft_tokens_sent"] == 0


async def test_the_sdks_stream_helper(fake: MakeFake, connect: Connect) -> None:
    """The client's own accumulator builds the whole answer from our chunks."""
    async with (
        connect(fake()) as client,
        client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream,
    ):
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"


async def test_completions(fake: MakeFake, connect: Connect) -> None:
    """Raw completions work whole and streamed, with a prompt of text or of tokens."""
    async with connect(fake()) as client:
        whole = await client.completions.create(model=MODEL, prompt="hello")
        stream = await client.completions.create(model=MODEL, prompt=[70, 71], stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert whole.choices[0].text == streamed == ANSWER


async def test_stop_and_limit(fake: MakeFake, connect: Connect) -> None:
    """A stop string and a token limit end the answer, each with its reason."""
    async with connect(fake()) as client:
        stopped = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stop=["é:"])
        cut = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=2)
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("naïve caf", "stop")
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2


LOCAL = f"{MODEL}:local"
LONG = {"role": "user", "content": "x" * 999}


async def test_parts_and_developer_role(fake: MakeFake, connect: Connect) -> None:
    """Lists of text parts and the developer role are taken."""
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    async with connect(fake()) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=messages, user="u", store=False)
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"model": LOCAL, "messages": []}, openai.BadRequestError, "messages"),
        ({"model": LOCAL, "temperature": 3}, openai.BadRequestError, "temperature"),
        ({"web_search_options": {"x": 1}}, openai.BadRequestError, "web_search_options"),
        ({"model": LOCAL, "logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"model": LOCAL, "max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"model": LOCAL, "messages": [LONG]}, openai.BadRequestError, "messages"),
    ],
)
async def test_bad_input(
    fake: MakeFake, connect: Connect, fields: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    """Bad input raises the client's matching exception, which names the field; it is not retried."""
    generator = fake()
    async with connect(generator, retries=2) as client:
        with pytest.raises(error) as caught:
            await client.chat.completions.create(**({"model": MODEL, "messages": MESSAGES} | fields))
    assert getattr(caught.value, "param", None) == param
    assert not generator.records


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (CloudRefused("overloaded", "busy"), openai.RateLimitError),
        (CloudUnreachable("gone"), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_token(
    fake: MakeFake, connect: Connect, failure: Exception, error: type[openai.APIStatusError], stream: bool
) -> None:
    """A failure before the first token has its own status, streamed or not."""
    async with connect(fake(error=failure)) as client:
        with pytest.raises(error):
            await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)


async def test_failure_in_mid_stream(fake: MakeFake, connect: Connect) -> None:
    """A failure in mid-stream is raised by the client after the text before it."""
    async with connect(fake(error=CloudUnreachable("lost"), error_after=3)) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        texts: list[str] = []
        with pytest.raises(openai.APIError, match="lost"):
            await read_into(texts, stream)
    assert ANSWER.startswith("".join(texts))
    assert texts


async def read_into(texts: list[str], stream: Any) -> None:
    async for chunk in stream:
        texts.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - keeps what precedes a failure


async def test_api_key(fake: MakeFake, connect: Connect) -> None:
    """The right key is served, another is an authentication error."""
    async with connect(fake(), key="right", server_key="right") as client:
        assert MODEL in [model.id async for model in client.models.list()]
    async with connect(fake(), key="wrong", server_key="right") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_models(fake: MakeFake, connect: Connect) -> None:
    """A model is found by its id, slash included, with its context length."""
    async with connect(fake()) as client:
        card = await client.models.retrieve(MODEL)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
    assert card.model_extra is not None
    assert card.model_extra["max_model_len"] == 256


async def test_local_route_is_marked(fake: MakeFake, connect: Connect) -> None:
    """An answer of the small model says so in header and body."""
    async with connect(fake(route=Route.LOCAL, route_reason="cloud out of reach")) as client:
        raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.headers["x-pipesd-route"] == "local; reason=cloud out of reach"
    extra = raw.parse().model_extra
    assert extra is not None
    assert extra["pipesd"]["route"] == "local"


async def test_closing_the_stream_ends_the_generation(fake: MakeFake, connect: Connect) -> None:
    """Closing a stream in the middle closes the agent's generation, which would go on for a minute."""
    generator = fake(delay_s=60.0)
    async with connect(generator) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await asyncio.wait_for(generator.records[0].ended.wait(), DEADLINE_S)
    assert generator.records[0].closed_early


@pytest.mark.parametrize("stream", [False, True])
async def test_giving_up_ends_the_generation(fake: MakeFake, connect: Connect, stream: bool) -> None:
    """A client that is cancelled while it waits closes the agent's generation."""
    generator = fake(first_delay_s=60.0)
    async with connect(generator) as client:
        call: Any = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
        waiting = asyncio.create_task(call)
        await asyncio.wait_for(generator.asked.wait(), DEADLINE_S)
        waiting.cancel()
        await asyncio.wait_for(generator.records[0].ended.wait(), DEADLINE_S)
    assert generator.records[0].closed_early


async def test_many_at_a_time(fake: MakeFake, connect: Connect) -> None:
    """Concurrent streams do not mix."""
    generator = fake(delay_s=0.001)
    async with connect(generator) as client:

        async def ask() -> str:
            texts: list[str] = []
            await read_into(
                texts, await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            )
            return "".join(texts)

        assert await asyncio.gather(*(ask() for _ in range(20))) == [ANSWER] * 20
