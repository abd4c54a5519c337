"""Attacks on the gateway over real sockets: a typed answer or a closed line each, and others are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from fastapi import FastAPI, Request

from edge_agent.api import TargetInfo
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.app import create_app
from openai_gateway.cli.hosting import with_header_timeout
from openai_gateway.http.requests import MAX_BODY_BYTES, install_error_handlers, read_body

from .served import DEADLINE_S, listening

TEXT = "the quick brown fox jumps over the lazy dog"
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


HEADERS_S = 0.4
Hasty = with_header_timeout(HEADERS_S)
"""Waits for headers as long as a test does."""


class Gateway:
    """A gateway on a port, in front of a scripted agent."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def raw(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer

    async def is_served(self) -> bool:
        """Whether somebody else gets an answer now."""
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
            return (await client.post(url, json=BODY)).status_code == 200


@asynccontextmanager
async def gateway(key: str | None = None) -> AsyncIterator[Gateway]:
    bundle = fake_tokenizer_bundle([TEXT])
    generator = FakeGenerator(TargetInfo("m", 512, 300), bundle, Script((5, 6, 7, 2)))
    async with listening(create_app(generator, api_key=key), http=Hasty) as port:
        yield Gateway(port)


def post(*headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and error of the next answer on a line."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)).decode()
    length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length"))
    body = json.loads(await asyncio.wait_for(reader.readexactly(length), DEADLINE_S))
    return int(head.split()[1]), body.get("error", {})


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_bodies_at_the_limit(more: int, chunked: bool) -> None:
    """As many bytes as the gateway takes are answered; one more is a 413, at once if it was announced."""
    whole = json.dumps(BODY | {"user": ""}).encode()
    body = json.dumps(BODY | {"user": "x" * (MAX_BODY_BYTES + more - len(whole))}).encode()
    assert len(body) == MAX_BODY_BYTES + more
    async with gateway() as served:
        how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        reader, writer = await served.raw(post(how))
        with suppress(ConnectionError):
            writer.write(b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n" if chunked else body)
            await writer.drain()
        status, error = await answer(reader)
        writer.transport.abort()
        assert (status, error.get("code")) == ((413, "request_too_large") if more else (200, None))
        assert await served.is_served()


async def test_a_body_that_is_longer_than_it_says() -> None:
    """A gigabyte that is announced is refused before it comes, and an answer to it costs no memory."""
    async with gateway() as served:
        reader, writer = await served.raw(post(f"Content-Length: {1 << 30}"))
        assert (await answer(reader))[0] == 413
        writer.transport.abort()


async def test_headers_that_trickle() -> None:
    """A byte now and then does not keep a line: it is closed, as is one that says nothing."""
    async with gateway() as served:
        silent, _ = quiet = await served.raw()
        reader, writer = await served.raw(b"POST /v1/chat/completions HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for number in range(1000):
                writer.write(b"X-%d: a\r\n" % number)
                await writer.drain()
                if reader.at_eof():
                    break
                await asyncio.sleep(0.01)
        with suppress(ConnectionError):  # a byte that came too late was answered by a reset
            assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        assert await asyncio.wait_for(silent.read(), DEADLINE_S) == b""
        assert await served.is_served()
        for each in (writer, quiet[1]):
            each.transport.abort()


async def test_later_headers_that_trickle() -> None:
    """The same for the second request of a line, which may be idle in between."""
    async with gateway() as served:
        reader, writer = await served.raw(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await answer(reader))[0] == 200
        await asyncio.sleep(3 * HEADERS_S)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost:")
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        writer.transport.abort()


async def test_a_body_that_trickles() -> None:
    """It is a typed 408 after the time that the next piece may take, and the line is closed."""
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/v1/chat/completions")
    async def read(request: Request) -> int:
        return len(await read_body(request, timeout_s=0.3))

    async with listening(app, http=Hasty) as port:
        served = Gateway(port)
        reader, writer = await served.raw(post(f"Content-Length: {1 << 20}"))

        async def trickle() -> None:
            with suppress(ConnectionError):
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        status, error = await answer(reader)
        assert (status, error["code"]) == (408, "request_timeout")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        writer.transport.abort()


async def test_without_a_key_nothing_is_read() -> None:
    """A 401 comes before the body does."""
    async with gateway(key="sk-own") as served:
        reader, writer = await served.raw(post(f"Content-Length: {1 << 20}"))
        status, error = await answer(reader)
        assert (status, error["code"]) == (401, "invalid_api_key")
        writer.transport.abort()


async def test_thousands_of_half_open_lines() -> None:
    """They keep nobody out, and are gone after a while."""
    async with gateway() as served:
        lines = [await served.raw(b"POST /v1/ch" if number % 2 else b"") for number in range(2000)]
        assert await served.is_served()
        for reader, writer in lines:
            assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
            writer.transport.abort()
