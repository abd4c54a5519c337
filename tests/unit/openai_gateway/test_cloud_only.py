"""The edge agent without a draft model: the server answers, or nobody does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from edge_agent.api import GenerationRequest, Sampling
from edge_agent.cloud_only import CloudOnlyAgent
from edge_agent.errors import CloudUnreachable, NoDraftModel
from edge_agent.verifier.http import CloudApi
from openai_gateway.app import create_app
from pipesd_vllm.wire import INFO_PATH, TOKENIZER_PATH

INFO = {
    "model": "org/target",
    "max_model_len": 64,
    "vocab_size": 3,
    "fingerprint": {"num_tokens": 3, "sha256": "0" * 64},
}
TOKENIZER = {"tokenizer_json": "{}", "chat_template": None, "special_tokens": {}, "eos_token_ids": [2]}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = {"id": "x", "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}]}


class Server:
    """A server that can be away; `asked` has the paths of what it was sent."""

    def __init__(self) -> None:
        self.is_away = False
        self.asked: list[str] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("refused")
        self.asked.append(request.url.path)
        return httpx.Response(200, content=msgspec.json.encode(self.answer(request.url.path)))

    def answer(self, path: str) -> object:
        return {INFO_PATH: INFO, TOKENIZER_PATH: TOKENIZER, "/health": {}}.get(path, ANSWER)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def agent(server: Server, tmp_path: Path) -> AsyncIterator[CloudOnlyAgent]:
    agent = CloudOnlyAgent(
        CloudApi("http://verifier", None, 1.0, tmp_path, httpx.MockTransport(server.handle))
    )
    yield agent
    await agent.close()


@pytest.fixture
async def client(agent: CloudOnlyAgent) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(agent))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_the_server_answers_and_the_reason_says_why(client: httpx.AsyncClient, server: Server) -> None:
    """A plain chat takes the route `cloud`, and header and body say that no draft model is installed."""
    answer = await client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200
    assert answer.headers["x-pipesd-route"] == "cloud; reason=no draft model installed"
    assert answer.json()["choices"][0]["message"]["content"] == "yes"
    assert answer.json()["pipesd"]["reason"] == "no draft model installed"
    assert server.asked[-1] == "/v1/chat/completions"


async def test_the_draft_model_alone_is_refused(client: httpx.AsyncClient, server: Server) -> None:
    """`NAME:local` is a 400 that says what to install; nothing is sent to the server instead."""
    answer = await client.post("/v1/chat/completions", json=CHAT | {"model": "org/target:local"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_draft_model"
    assert "pip install 'pipesd[edge]'" in answer.json()["error"]["message"]
    assert set(server.asked) == {INFO_PATH}


async def test_no_model_is_listed_that_does_not_answer(client: httpx.AsyncClient) -> None:
    """The list of models names the target with and without `:cloud`, in OpenAI's form and in Ollama's."""
    names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert names == ["org/target", "org/target:cloud"]
    assert not any(":local" in model["name"] for model in (await client.get("/api/tags")).json()["models"])


async def test_a_server_away_is_an_error(client: httpx.AsyncClient, server: Server) -> None:
    """While the server is out of reach requests get a 503 that says what could have answered them."""
    await client.post("/v1/chat/completions", json=CHAT)
    server.is_away = True
    answer = await client.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cloud_unreachable")
    assert "no draft model is installed" in answer.json()["error"]["message"]
    assert (await client.get("/health")).json() == {
        "status": "degraded",
        "draft": "none",
        "cloud": "out of reach",
    }
    server.is_away = False
    assert (await client.get("/health")).json()["status"] == "ok"
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_nothing_is_generated_here(agent: CloudOnlyAgent) -> None:
    """Whoever asks the agent itself for a generation gets a typed error."""
    with pytest.raises(NoDraftModel):
        async for _ in agent.generate(GenerationRequest("r", (1,), Sampling(4))):
            pass


async def test_a_server_never_reached_is_an_error(agent: CloudOnlyAgent, server: Server) -> None:
    """Without a server there is nothing to start for."""
    server.is_away = True
    with pytest.raises(CloudUnreachable, match=r"http://verifier.*no draft model is installed"):
        await agent.target()
