"""A small byte-level tokenizer, a fake edge agent and ways to call the app."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from tokenizers import Tokenizer
from typer.testing import CliRunner

from edge_agent.api import TargetInfo, TokenizerBundle
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.app import create_app

TRAINING_TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "naïve café 日本語 🙂🙂",
    "hello world, hello you",
]
MAX_MODEL_LEN = 128
END_OF_TURN = 2


@pytest.fixture(scope="session")
def bundle() -> TokenizerBundle:
    return fake_tokenizer_bundle(TRAINING_TEXTS)


@pytest.fixture(scope="session")
def tokenizer(bundle: TokenizerBundle) -> Tokenizer:
    return Tokenizer.from_str(bundle.tokenizer_json)


@pytest.fixture(scope="session")
def target(tokenizer: Tokenizer) -> TargetInfo:
    return TargetInfo("org/target", MAX_MODEL_LEN, tokenizer.get_vocab_size())


@pytest.fixture(scope="session")
def script_for(tokenizer: Tokenizer) -> Callable[..., Script]:
    """`script_for(text, **options)`: a script whose tokens decode to `text` and end the turn."""

    def make(text: str, **options: Any) -> Script:
        token_ids = (*tokenizer.encode(text, add_special_tokens=False).ids, END_OF_TURN)
        return Script(token_ids, **options)

    return make


@pytest.fixture
def generator_for(
    target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script]
) -> Callable[..., FakeGenerator]:
    """`generator_for(text, **options)`: a fake agent that answers `text`."""

    def make(text: str = "hello world", **options: Any) -> FakeGenerator:
        return FakeGenerator(target, bundle, script_for(text, **options))

    return make


@pytest.fixture
def client_for() -> Callable[[FastAPI], httpx.AsyncClient]:
    """An HTTP client that calls the app in this process."""

    def make(app: FastAPI) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    return make


Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def post(client_for: Callable[[FastAPI], httpx.AsyncClient]) -> Post:
    """`post(generator, path, body)`: one request to a fresh app."""

    async def send(generator: FakeGenerator, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with client_for(create_app(generator)) as client:
            return await client.post(path, content=content, headers=headers)

    return send


@pytest.fixture
def runner(tmp_path: Path) -> CliRunner:
    """Runs commands with folders of their own and none of the caller's settings."""
    cleared = {name: None for name in os.environ if name.startswith("PIPESD_")}
    folders = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    return CliRunner(env={**cleared, **{name: str(tmp_path / name) for name in folders}})


class AsgiCall:
    """One POST to an ASGI app by hand, so that the client can go away whenever it wants."""

    def __init__(self, app: FastAPI, path: str, body: Any) -> None:
        self._app = app
        self._body = msgspec.json.encode(body)
        self._was_read = False
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.got_text = asyncio.Event()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-length", str(len(self._body)).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    def text(self) -> str:
        """The body as far as it was sent."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._was_read:
            self._was_read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        if b'"content":"h' in message.get("body", b""):
            self.got_text.set()


@pytest.fixture
def asgi_call() -> type[AsgiCall]:
    return AsgiCall
