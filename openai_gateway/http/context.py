"""What a request is called: an id in and out, in logs and upstream, and the label of the key it came with."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CURRENT", "HttpRequest", "HttpWatcher", "RequestContext"]

REQUEST_ID: Final = "x-request-id"
_ID: Final = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
CURRENT: ContextVar[HttpRequest | None] = ContextVar("pipesd_request", default=None)
"""The request that is being answered."""


@dataclass(slots=True)
class HttpRequest:
    """One request. `at_end` is called when its answer has been sent, or nobody waits for it any more."""

    request_id: str
    method: str = ""
    path: str = ""
    """Its route's path; what was asked for, if there is none."""
    status: int = 499
    """nginx's for a client that left, until an answer begins."""
    duration_ms: float = 0.0
    key_label: str | None = None
    error_code: str | None = None
    is_reported: bool = False
    """Whether an observer of answers has told of it."""
    at_end: list[Callable[[], None]] = field(default_factory=list)


@runtime_checkable
class HttpWatcher(Protocol):
    """Is told of every request once it is over. Must be quick and must not raise."""

    def answered(self, request: HttpRequest) -> None: ...


class RequestContext:
    """ASGI middleware: gives each request an id, the client's own if it sends one, and tells `watchers`."""

    def __init__(
        self,
        app: ASGIApp,
        watchers: tuple[HttpWatcher, ...] = (),
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._app = app
        self._watchers = watchers
        self._clock = clock
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the context of an `HttpRequest`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(REQUEST_ID.encode(), b"").decode("latin-1")
        request = HttpRequest(given if _ID.fullmatch(given) else self._new_id(), scope["method"])
        started_s = self._clock()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request.request_id
            await send(message)

        token = CURRENT.set(request)
        try:
            await self._app(scope, receive, named)
        finally:
            CURRENT.reset(token)
            route = scope.get("route")
            request.path = str(getattr(route, "path", "") or "(none)")
            request.duration_ms = (self._clock() - started_s) * 1e3
            for call in request.at_end:
                call()
            for watcher in self._watchers:
                watcher.answered(request)
