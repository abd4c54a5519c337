"""The light client against a real gateway on a scripted generation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from benchmarks.gateway_client import ChatTask, gateway_client
from benchmarks.gateway_host import hosted_gateway
from edge_agent.fake_generator import FakeGenerator
from tests.e2e.stack import serving

TEXT = "hello world, hello you"
TASK = ChatTask("org/target", "hello", 32)


@pytest_asyncio.fixture
async def root(make_fake: Callable[[str], FakeGenerator]) -> AsyncIterator[str]:
    """A gateway's address without `/v1`."""
    async with hosted_gateway(make_fake(TEXT)) as url:
        yield url.removesuffix("/v1")


async def test_one_connection_for_all_answers(root: str) -> None:
    """Each piece of text has its time, in order, and all answers share a connection."""
    async with gateway_client(root) as client:
        assert await client.model() == "org/target"
        answers = [await client.chat(TASK) for _ in range(3)]
        assert client.num_connections == 1
    assert [answer.error for answer in answers] == [None] * 3
    assert len({answer.answer_id for answer in answers}) == 3
    for answer in answers:
        times_s = [answer.started_s, *answer.arrivals_s, answer.ended_s]
        assert len(times_s) > 3
        assert times_s == sorted(times_s)


async def test_what_goes_wrong_is_in_the_answer(root: str) -> None:
    """A refusal, and an answer of somebody who is no gateway, are told and not raised."""
    async with gateway_client(root) as client:
        refused = await client.chat(ChatTask("other", "hello", 4))
        assert (refused.error or "").startswith("HTTP 404")
        assert refused.arrivals_s == ()
    async with gateway_client("http://127.0.0.1:9") as client:
        assert "ConnectError" in ((await client.chat(TASK)).error or "")


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (b'data: {"id":"a","choices":[{"delta":{"content":"x"}}]}\n\n', "ended before"),
        (b'data: {"error":{"message":"lost it"}}\n\n', "lost it"),
    ],
)
async def test_an_answer_that_breaks_off(events: bytes, error: str) -> None:
    """A stream without its end, and one with an error event, are errors."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat() -> StreamingResponse:
        return StreamingResponse(iter([events]), media_type="text/event-stream")

    async with serving(app) as url, gateway_client(url) as client:
        assert error in ((await client.chat(TASK)).error or "")
