"""This version beside the first release, whose wire is kept as it was recorded (`first_release.json`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from websockets.typing import Subprotocol

from edge_agent.api import Fallback
from edge_agent.errors import VerifierTooOld
from edge_agent.testing import fake_tokenizer_bundle
from edge_agent.verifier.websocket import WebSocketConnector
from openai_gateway.app import create_app
from pipesd_vllm.wire import INFO_PATH, SESSION_PATH, TOKENIZER_PATH
from tests.attacks.served import DEADLINE_S, listening, served
from tests.e2e.stack import started_agent

from .pipesd_vllm.api.front_end import FrontEnd, make_model

pytestmark = pytest.mark.filterwarnings("ignore")

RELEASE: dict[str, Any] = json.loads(Path(__file__).with_name("first_release.json").read_text())
UP = {name: bytes.fromhex(data) for name, data in RELEASE["up"].items()}
TAGS = {"Welcome": 16, "Commit": 17, "Refused": 18}
CHAT = "/v1/chat/completions"
WHOLE: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


# -- its edge at this server --------------------------------------------------------------------


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    return FrontEnd(make_model(tmp_path_factory.mktemp("model")))


class OldEdge:
    """Sends recorded frames, and reads as the first release's decoder does: its own fields, by place."""

    def __init__(self, line: Any) -> None:
        self._line = line

    async def send(self, *names: str) -> None:
        for name in names:
            await self._line.send(UP[name])

    async def frame(self) -> dict[str, Any]:
        tag, *values = msgspec.msgpack.decode(await asyncio.wait_for(self._line.recv(), DEADLINE_S))
        name = next(name for name, own in TAGS.items() if own == tag)
        fields = RELEASE["fields"][name]
        assert len(values) <= len(fields) or name in ("Welcome", "Commit"), "only these have grown"
        return {"": name, **dict(zip(fields, values, strict=False))}

    async def answer(self, base: int) -> bytes:
        """The text of a turn whose prompt ends at `base`, each position once."""
        said = b""
        while True:
            commit = await self.frame()
            assert commit[""] == "Commit", commit
            assert commit["base"] == base + len(said)
            said += bytes(token for token in commit["tokens"] if token < 256)
            if commit.get("finish_reason"):
                return said


def text_of(front: FrontEnd, data: bytes) -> str:
    """Of ids below 256, each a byte's."""
    return str(front.engine.renderer.get_tokenizer().decode(list(data)))


async def test_its_edge_is_served_as_before(front: FrontEnd) -> None:
    """It is greeted in its version, its turns run, its drafts are taken, and it can cancel and go on."""
    front.engine.says("An answer that is older.", ends=False)
    front.engine.longest_piece = 3
    protocols = [Subprotocol(RELEASE["subprotocol"])]
    async with served(front) as server, server.dial(subprotocols=protocols) as line:
        edge = OldEdge(line)
        welcome = await edge.frame()
        recorded = msgspec.msgpack.decode(bytes.fromhex(RELEASE["down"]["welcome"]))
        assert (welcome[""], welcome["version"]) == ("Welcome", recorded[1])
        assert len(welcome["limits"]) >= len(recorded[6])
        assert len(welcome["fingerprint"]) == len(recorded[5])
        for _ in range(2):
            await edge.send("open", "draft", "draft, tree")
            assert text_of(front, await edge.answer(10)) == "An answer that is older."[:20]
        await edge.send("open", "cancel", "open")
        assert front.engine.num_running <= 2


@pytest.mark.parametrize("name", ["open, everything", "open, structure"])
async def test_its_requests_mean_the_same(front: FrontEnd, name: str) -> None:
    """Every field of its openings reaches the engine under today's name."""
    script = front.engine.ids("A structured one.", ends=False)
    front.engine.script = lambda prompt, offset: [72, *script]
    async with served(front) as server:
        async with server.dial(subprotocols=[Subprotocol(RELEASE["subprotocol"])]) as line:
            edge = OldEdge(line)
            await edge.frame()
            num_before = len(front.engine.opened)
            await edge.send(name)
            assert (await edge.frame())[""] == "Commit"
        _, params, prompt = front.engine.opened[num_before]
    assert bytes(prompt["prompt_token_ids"][:10]) == b"How is it?"
    if name == "open, everything":
        assert (params.temperature, params.top_p, params.seed, params.top_k) == (0.7, 0.9, 5, 40)
        assert (params.min_tokens, params.logit_bias, params.frequency_penalty) == (2, {3: -1.5}, -0.5)
    else:
        assert params.structured_outputs.json == {"type": "object"} or params.structured_outputs.json


# -- this edge at its server --------------------------------------------------------------------


def old_server(bundle: Any) -> FastAPI:
    """What the first release answers on its routes."""
    app = FastAPI()
    app.state.asked = []

    @app.get(INFO_PATH)
    async def info() -> Any:
        return RELEASE["info"]

    @app.get(TOKENIZER_PATH)
    async def tokenizer() -> Any:
        return {
            "tokenizer_json": bundle.tokenizer_json,
            "chat_template": bundle.chat_template,
            "content_format": "string",
            "template_variables": {},
            "special_tokens": dict(bundle.special_tokens),
            "eos_token_ids": list(bundle.eos_token_ids),
        }

    @app.websocket(SESSION_PATH)
    async def session(websocket: WebSocket) -> None:
        offered = websocket.scope["subprotocols"]
        if RELEASE["subprotocol"] not in offered:
            await websocket.accept()
            await websocket.close(**RELEASE["another_version"])
            return
        await websocket.accept(subprotocol=RELEASE["subprotocol"])
        await websocket.send_bytes(bytes.fromhex(RELEASE["down"]["welcome"]))
        await websocket.receive()

    @app.post(CHAT)
    async def chat(request: Request) -> Any:
        app.state.asked.append(await request.json())
        return JSONResponse(WHOLE)

    return app


@asynccontextmanager
async def old_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FastAPI, str]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    app = old_server(fake_tokenizer_bundle(["hello"]))
    async with listening(app) as port:
        yield app, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("fallback", list(Fallback))
async def test_its_server_answers_by_its_plain_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallback: Fallback
) -> None:
    """Agent and gateway start, the answer is the server's own, and says why nobody drafted."""
    async with (
        old_release(tmp_path, monkeypatch) as (app, url),
        started_agent(url, "key", draft="none", fallback=str(fallback)) as agent,
    ):
        transport = httpx.ASGITransport(app=create_app(agent))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi?"}], "temperature": 0}
            answer = await client.post(CHAT, json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-pipesd-route"] == "cloud; reason=server too old for sessions"
        assert answer.json()["choices"][0]["message"]["content"] == "Hi"
        assert answer.json()["pipesd"]["drafted"] is False
        assert app.state.asked[0]["messages"] == body["messages"]


async def test_what_its_server_says_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close that was recorded is known for what it is."""
    async with old_release(tmp_path, monkeypatch) as (_, url):
        transport = await WebSocketConnector(url, "key", DEADLINE_S).connect()
        with pytest.raises(VerifierTooOld, match="version 1"):
            await transport.receive()
        await transport.close()
