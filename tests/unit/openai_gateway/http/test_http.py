from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from edge_agent.errors import CloudUnreachable
from openai_gateway.http import install_error_handlers, read_body, unless_gone


def request_of(*parts: bytes, announced: str = "0") -> Request:
    """A request whose body comes in `parts`, and whose client then goes away."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages += [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    headers = [(b"content-length", announced.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def test_body_in_parts() -> None:
    """A body that comes in parts is read whole."""
    assert await read_body(request_of(b"ab", b"cd"), limit_bytes=4) == b"abcd"


@pytest.mark.parametrize(
    "request_", [request_of(b"ab", b"cde"), request_of(announced="5"), request_of(b"abcde", announced="x")]
)
async def test_body_too_large(request_: Request) -> None:
    """A body beyond the limit is a 413, also when its length is not announced or announced wrongly."""
    with pytest.raises(Exception, match="exceeds 4 bytes") as caught:
        await read_body(request_, limit_bytes=4)
    assert getattr(caught.value, "status", None) == 413


async def test_work_is_cancelled_when_the_client_goes() -> None:
    """Work for a client that goes away is cancelled, and has cleaned up when the wait ends."""
    cleaned_up = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    request = request_of()
    await read_body(request)
    with pytest.raises(ClientDisconnect):
        await unless_gone(request, work())
    assert cleaned_up.is_set()


async def test_work_that_is_done_wins() -> None:
    """Work that ends first gives its result or its error."""

    async def stay() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    async def fail() -> int:
        raise ValueError("its own")

    request = Request({"type": "http", "method": "POST", "headers": []}, stay)
    assert await unless_gone(request, work()) == 3
    with pytest.raises(ValueError, match="its own"):
        await unless_gone(request, fail())


async def test_errors_of_routes(client_for: Callable[[FastAPI], httpx.AsyncClient]) -> None:
    """Edge errors raised in a route are answered in OpenAI's shape, and a lost client with 499."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/unreachable")
    async def unreachable() -> Response:
        raise CloudUnreachable("no route")

    @app.get("/gone")
    async def gone() -> Response:
        raise ClientDisconnect

    async with client_for(app) as client:
        answer = await client.get("/unreachable")
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "no route")
        assert (await client.get("/gone")).status_code == 499


async def test_bugs_are_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is a 500 that tells nothing; the log has it."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/bug")
    async def bug() -> Response:
        raise RuntimeError("secret")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/bug")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert caplog.text.count("RuntimeError: secret") == 1


async def test_middleware_sees_bugs(client_for: Callable[[FastAPI], httpx.AsyncClient]) -> None:
    """An unexpected exception has CORS headers like any other answer, so that browsers may read it."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])

    @app.get("/bug")
    async def bug() -> Response:
        raise RuntimeError("secret")

    async with client_for(app) as client:
        answer = await client.get("/bug", headers={"origin": "http://chat.example"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_bugs_in_mid_answer_are_raised() -> None:
    """An answer that has begun cannot become another one: the server has to cut it off."""
    app = FastAPI()
    install_error_handlers(app)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("broken")

    @app.get("/half")
    async def half() -> Response:
        return StreamingResponse(pieces())

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with pytest.raises(RuntimeError, match="broken"):
            await client.get("/half")
