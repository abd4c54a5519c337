"""The edge agent without a draft model: drafts are looked up, and only the server answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from edge_agent.agent import EdgeAgent, policy_parameters
from edge_agent.api import GenerationRequest, Route, Sampling, SessionMode, Source
from edge_agent.control import FixedParameters
from edge_agent.drafting import DraftLibrary
from edge_agent.errors import CloudUnreachable, NoDraftModel
from edge_agent.session import ControlPlane
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeConnector, FakeTransport, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier.http import CloudApi
from openai_gateway.app import create_app
from pipesd_vllm.wire import INFO_PATH, TOKENIZER_PATH, fingerprint

VOCABULARY = fingerprint([f"t{i}" for i in range(10)])
SETTINGS = EdgeSettings(cloud_url="http://verifier")
PROMPT = (1, 2, 3, 4, 5, 6, 7, 8)

INFO = {
    "model": "fake-target",
    "max_model_len": 64,
    "vocab_size": VOCABULARY.num_tokens,
    "fingerprint": {"num_tokens": VOCABULARY.num_tokens, "sha256": VOCABULARY.sha256},
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


def copying(tokens: Sequence[int]) -> int:
    """The target repeats its prompt."""
    return PROMPT[(len(tokens) - len(PROMPT)) % len(PROMPT)]


@pytest.fixture
async def agent(server: Server, tmp_path: Path) -> AsyncIterator[EdgeAgent]:
    agent = EdgeAgent(
        None,
        FakeConnector([FakeTransport(copying, fake_welcome(VOCABULARY))]),
        CloudApi("http://verifier", None, 1.0, tmp_path, httpx.MockTransport(server.handle)),
        ControlPlane(FixedParameters(policy_parameters(SETTINGS)), NullRecorder(), time.monotonic),
        mode=SessionMode.LATENCY,
        library=DraftLibrary((), tmp_path),
    )
    yield agent
    await agent.close()


@pytest.fixture
async def client(agent: EdgeAgent) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(agent))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_the_answer_is_the_targets(agent: EdgeAgent) -> None:
    """Without a draft model, too, the edge runs the session (tests/simulation has drafts in time)."""
    request = GenerationRequest("r", PROMPT, Sampling(40))
    chunks = [chunk async for chunk in agent.generate(request)]
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    assert tokens == [copying([0] * length) for length in range(8, 48)]
    assert Source.DRAFTED not in {source for chunk in chunks for source in chunk.sources}


async def test_what_needs_the_servers_api_is_passed_on(client: httpx.AsyncClient, server: Server) -> None:
    answer = await client.post("/v1/chat/completions", json=CHAT | {"model": "fake-target:cloud"})
    assert answer.status_code == 200
    assert answer.headers["x-pipesd-route"] == "cloud; reason=asked for"
    assert answer.json()["choices"][0]["message"]["content"] == "yes"
    assert server.asked[-1] == "/v1/chat/completions"


async def test_the_draft_model_alone_is_refused(client: httpx.AsyncClient, server: Server) -> None:
    """`NAME:local` is a 400 that says what to install; the server is not asked."""
    answer = await client.post("/v1/chat/completions", json=CHAT | {"model": "fake-target:local"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_draft_model"
    assert "pip install 'pipesd[edge]'" in answer.json()["error"]["message"]
    assert server.asked == []


async def test_no_model_is_listed_that_does_not_answer(client: httpx.AsyncClient) -> None:
    """The list of models names the target with and without `:cloud`, in OpenAI's form and in Ollama's."""
    names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert names == ["fake-target", "fake-target:cloud"]
    assert not any(":local" in model["name"] for model in (await client.get("/api/tags")).json()["models"])


async def test_a_server_away_is_an_error(client: httpx.AsyncClient, server: Server) -> None:
    """While the server is out of reach requests get a 503 that says what could have answered them."""
    cloud = CHAT | {"model": "fake-target:cloud"}
    await client.post("/v1/chat/completions", json=cloud)
    server.is_away = True
    answer = await client.post("/v1/chat/completions", json=cloud)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cloud_unreachable")
    assert "no draft model is installed" in answer.json()["error"]["message"]
    assert (await client.get("/health")).json() == {
        "status": "degraded",
        "draft": "none",
        "cloud": "out of reach",
    }
    server.is_away = False
    assert (await client.get("/health")).json()["status"] == "ok"
    assert (await client.post("/v1/chat/completions", json=cloud)).status_code == 200


async def test_nothing_is_generated_here_alone(agent: EdgeAgent) -> None:
    """Whoever asks the agent itself for the route `local` gets a typed error."""
    with pytest.raises(NoDraftModel):
        async for _ in agent.generate(GenerationRequest("r", (1,), Sampling(4), Route.LOCAL)):
            pass


async def test_a_server_never_reached_is_an_error(agent: EdgeAgent, server: Server) -> None:
    """Without a server there is nothing to start for."""
    server.is_away = True
    with pytest.raises(CloudUnreachable, match=r"http://verifier.*no draft model is installed"):
        await agent.target()
