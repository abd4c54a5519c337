"""What a user sees when verifier, network or settings fail: the rest of the answer, or one clear error."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from openai import AsyncOpenAI

from edge_agent.agent import EdgeAgent
from edge_agent.api import SessionMode
from edge_agent.errors import CloudError, CloudMisbehaved, CloudRefused, CloudUnreachable
from tests.conftest import Verifier
from tests.integration.session_client import (
    DEADLINE_S,
    cut_short,
    until_idle,
    until_running,
)
from tests.integration.test_llama_rollback import LLAMA, WIDTH, write_model

from .stack import (
    Relay,
    agent_of,
    edge_settings,
    gateway_client,
    relay_to,
    server_client,
    serving,
    stack_behind,
)

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

NUM_TOKENS = 96
MESSAGES: Any = [{"role": "user", "content": "Tell me about the history of bread in five sentences."}]
FIELDS: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": NUM_TOKENS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(verifier: Verifier) -> str:
    """The server's own answer."""
    async with server_client(verifier) as server:
        answer = await server.chat.completions.create(model=verifier.model, **FIELDS)
    return answer.choices[0].message.content or ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_stack(verifier: Verifier) -> AsyncIterator[tuple[Relay, AsyncOpenAI]]:
    async with relay_to(verifier) as relay, stack_behind(relay, verifier, fallback="error") as client:
        yield relay, client


@pytest_asyncio.fixture(loop_scope="module")
async def client(module_stack: tuple[Relay, AsyncOpenAI]) -> AsyncIterator[AsyncOpenAI]:
    """A client of a working stack; the network is whole again afterwards."""
    relay, client = module_stack
    yield client
    await relay.restore()


@pytest.fixture
def relay(module_stack: tuple[Relay, AsyncOpenAI]) -> Relay:
    """The network between the agent and the verifier."""
    return module_stack[0]


# -- the network fails --------------------------------------------------------------------


@pytest.mark.parametrize("mode", [SessionMode.AUTO, SessionMode.OFFLOAD])  # all of them: tests/simulation
async def test_the_verifier_comes_back(verifier: Verifier, expected: str, mode: SessionMode) -> None:
    """Cut off twice in mid-answer and back within a second, the answer is whole, nothing lost or doubled."""
    pieces: list[str] = []
    connections: list[int] = []
    async with relay_to(verifier) as relay, stack_behind(relay, verifier, mode=mode) as client:
        stream = await client.chat.completions.create(model=verifier.model, stream=True, **FIELDS)
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")
            if len(pieces) in (3, 6):
                await relay.cut()
                connections.append(relay.num_connections)
                await asyncio.sleep(0.3)
                await relay.restore()
        connections.append(relay.num_connections)
    figures = (chunk.model_extra or {})["pipesd"]
    assert len(pieces) > 6
    waits = mode is SessionMode.OFFLOAD  # the other may be done before the cut
    assert connections[-1] > connections[0] or not waits, "it went on without a new connection"
    assert "".join(pieces) == expected
    assert figures["draft_tokens_accepted"] > 0 or mode is not SessionMode.OFFLOAD
    await until_idle(verifier)


async def beginning(client: AsyncOpenAI, verifier: Verifier) -> str:
    """The answer's first eight tokens, asked for anew."""
    answer = await client.chat.completions.create(model=verifier.model, **(FIELDS | {"max_tokens": 8}))
    assert answer.choices[0].message.content
    return answer.choices[0].message.content


async def test_cut_between_two_requests(
    verifier: Verifier, client: AsyncOpenAI, relay: Relay, expected: str
) -> None:
    """Warm connections that died in the meantime are not noticed by the next request."""
    for _ in range(3):
        assert expected.startswith(await beginning(client, verifier))
        await relay.cut()
        await relay.restore()


async def read_into(pieces: list[str], stream: Any, relay: Relay) -> None:
    """Read `stream`, cutting the network off after some pieces."""
    async for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        if len(pieces) == 4:
            await relay.cut()


async def test_the_verifier_stays_away(
    verifier: Verifier, client: AsyncOpenAI, relay: Relay, expected: str
) -> None:
    """A stream that cannot go on ends in the client's own exception, after text that is right."""
    stream = await client.chat.completions.create(model=verifier.model, stream=True, **FIELDS)
    pieces: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(openai.APIError, match="lost") as caught:
            await read_into(pieces, stream, relay)
    assert caught.value.code == "cloud_unreachable"
    assert len(pieces) >= 4
    assert expected.startswith("".join(pieces))
    await until_idle(verifier)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_no_verifier_at_all(
    verifier: Verifier, client: AsyncOpenAI, relay: Relay, expected: str, stream: bool
) -> None:
    """Before the first token it is a 503 that says when to try again; then the next request is served."""
    await relay.cut()
    with pytest.raises(openai.InternalServerError, match="no verifier answers") as caught:
        await client.chat.completions.create(model=verifier.model, stream=stream, **FIELDS)
    assert caught.value.status_code == 503
    assert caught.value.code == "cloud_unreachable"
    assert int(caught.value.response.headers["retry-after"]) > 0
    async with httpx.AsyncClient(trust_env=False) as http:
        health = await http.get(str(client.base_url).replace("/v1/", "/health"))
    assert health.json()["status"] == "degraded"
    await relay.restore()
    assert expected.startswith(await beginning(client, verifier))


async def test_a_whole_answer_that_is_cut_off(verifier: Verifier, client: AsyncOpenAI, relay: Relay) -> None:
    """An answer that is not streamed becomes a 503: half of it is not passed off as the whole."""
    fields = FIELDS | {"max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    async with cut_short(verifier):
        asking = asyncio.create_task(client.chat.completions.create(model=verifier.model, **fields))
        await until_running(verifier, 1)
        await asyncio.sleep(1.0)
        await relay.cut()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(openai.InternalServerError, match="lost") as caught:
                await asking
    assert caught.value.status_code == 503


# -- starting with the wrong things -------------------------------------------------------


async def start_error(error: type[Exception], url: str, key: str = "key", **settings: Any) -> Exception:
    """What `EdgeAgent.start` raises if it needs a verifier; one sentence or two, without a line break."""
    settings.setdefault("fallback", "error")
    with pytest.raises(error) as caught:
        await EdgeAgent.start(edge_settings(url, key, **settings))
    assert 20 < len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("has_model", [False, True], ids=["none", "another family"])
async def test_without_a_draft_that_fits_the_answer_is_the_same(
    verifier: Verifier, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, has_model: bool
) -> None:
    """Drafts are looked up, or translated; another vocabulary is a notice that names both models."""
    path = tmp_path / "tiny-llama.gguf"
    write_model(path, "llama", LLAMA, heads=2, feed_forward=WIDTH)
    draft = str(path) if has_model else "none"
    async with agent_of(verifier, draft=draft) as agent, gateway_client(agent) as client:
        answer = await client.chat.completions.with_raw_response.create(model=verifier.model, **FIELDS)
        names = {model.id async for model in client.models.list()}
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=f"{verifier.model}:local", **FIELDS)
    assert answer.parse().choices[0].message.content == expected
    assert answer.headers["x-pipesd-route"].startswith("collaborative")
    assert f"{verifier.model}:local" not in names
    assert caught.value.code == "no_draft_model"
    if has_model:
        assert "the draft tiny-llama does not fit the target" in caplog.text
        assert verifier.model in caplog.text


async def test_a_wrong_key(verifier: Verifier) -> None:
    """The message says who refused the key and where to set it, and does not show it."""
    error = await start_error(CloudRefused, verifier.base_url, "sk-wrong")
    assert isinstance(error, CloudRefused)
    assert error.code == "invalid_api_key"
    assert verifier.base_url in str(error)
    assert "--api-key" in str(error)
    assert "sk-wrong" not in str(error)


async def test_a_server_without_the_plugin() -> None:
    """Another HTTP server is told from a verifier, and the message says what to start."""
    async with serving(FastAPI()) as url:
        error = await start_error(CloudRefused, url)
    assert "without the pipesd plugin" in str(error)
    assert "pipesd serve" in str(error)


async def test_a_server_that_answers_anything() -> None:
    """A page where a verifier's description should be is not taken for one."""
    app = FastAPI()

    @app.get("/{path:path}")
    async def page() -> HTMLResponse:
        return HTMLResponse("<h1>Welcome to nginx!</h1>")

    async with serving(app) as url:
        error = await start_error(CloudMisbehaved, url)
    assert url in str(error)


@contextmanager
def bound_port() -> Iterator[str]:
    """The URL of a port that is taken, but where nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


async def test_nobody_there() -> None:
    """A URL where nothing listens: what to start, or to check."""
    with bound_port() as url:
        error = await start_error(CloudUnreachable, url)
    assert url in str(error)
    assert "pipesd serve" in str(error)


@asynccontextmanager
async def talking(greeting: bytes) -> AsyncIterator[str]:
    """A TCP server that says `greeting` and then nothing, whatever it is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while await reader.read(1 << 16):
            pass
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["silent", "ssh"])
async def test_something_else_there(greeting: bytes) -> None:
    """A port that is silent or speaks another protocol is given up after the time the settings allow."""
    async with talking(greeting) as url:
        error = await start_error(CloudError, url, connect_timeout_s=0.5)
    assert url in str(error)
