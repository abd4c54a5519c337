"""The HTTP side of a request: its body, its key, its client that may go away, its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.errors import EdgeError
from openai_gateway.errors import ApiError, BodyTooLarge, BodyTooSlow, from_status, translate
from openai_gateway.http.context import CURRENT

__all__ = [
    "MAX_BODY_BYTES",
    "RenderError",
    "install_error_handlers",
    "json_response",
    "openai_error",
    "read_body",
    "unless_gone",
]

MAX_BODY_BYTES = 16 << 20
CLIENT_CLOSED_REQUEST = 499
"""nginx's code for a client that did not wait; nobody but the access log sees it."""

T = TypeVar("T")


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`body` as JSON."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


BODY_TIMEOUT_S = 60.0
"""In this time a body must bring `_PIECE_BYTES` more, or its end: a byte now and then is no headway."""
_PIECE_BYTES = 64 << 10


async def read_body(
    request: Request, limit_bytes: int = MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S
) -> bytes:
    """The whole body.

    Raises `BodyTooLarge` as soon as more than `limit_bytes` have come or are announced, `BodyTooSlow` once
    less than 64 KiB have come in `timeout_s`.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    body, due = bytearray(), _PIECE_BYTES
    now_s = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            async for part in request.stream():
                body += part
                if len(body) > limit_bytes:
                    raise BodyTooLarge(limit_bytes)
                if len(body) >= due:
                    due = len(body) + _PIECE_BYTES
                    deadline.reschedule(now_s() + timeout_s)
        return bytes(body)
    except TimeoutError:
        raise BodyTooSlow(timeout_s) from None


async def unless_gone(request: Request, work: Coroutine[object, object, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away (`ClientDisconnect`).

    The body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


RenderError = Callable[[str, ApiError], Response]
"""The answer to an error of a request to a path, in the shape of that path's protocol."""


def openai_error(path: str, error: ApiError) -> Response:
    """`error` in OpenAI's shape, whatever the path."""
    return json_response(error.body(), error.status, error.headers)


def install_error_handlers(app: FastAPI, render: RenderError = openai_error) -> None:
    """Answer every error, ours and the framework's, as `render` does.

    Middleware that is to see these answers (CORS) must be added later.
    """

    async def on_error(request: Request, error: Exception) -> Response:
        return render(request.url.path, _noted(translate(error)))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return render(request.url.path, _noted(_of_http(request, error)))

    app.add_middleware(_Faults, render=render)
    app.add_exception_handler(ApiError, on_error)
    app.add_exception_handler(EdgeError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, on_error)  # a fault of middleware


class _Faults:
    """Answers what no handler expects. A handler for `Exception` would stand outside of all middleware."""

    def __init__(self, app: ASGIApp, render: RenderError) -> None:
        self._app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or has_begun:
                raise
            response = self._render(scope["path"], _noted(translate(error)))
            await response(scope, receive, send)


def _noted(error: ApiError) -> ApiError:
    """`error`, which the log of the request has, too."""
    if (current := CURRENT.get()) is not None:
        current.error_code = error.code or error.kind
    return error


def _of_http(request: Request, error: HTTPException) -> ApiError:
    where = f"{request.method} {request.url.path}"
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            message = f"Unknown path: {where}."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"Method not allowed: {where}."
        case _:
            message = str(error.detail)
    return from_status(error.status_code, message, error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
