"""The `cloud` route: a request passed on to the server's own OpenAI API, and its answer passed back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import httpx

from edge_agent.errors import CloudUnreachable

__all__ = ["FakeForwardedAnswer", "ForwardedAnswer", "HttpAnswer"]


class ForwardedAnswer(Protocol):
    """What the server answered, whatever its status. Must be closed."""

    @property
    def status(self) -> int: ...

    async def read(self) -> bytes:
        """The whole body. Raises `CloudUnreachable` if the connection is lost."""
        ...

    def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes, cut anywhere. Raises `CloudUnreachable`."""
        ...

    async def aclose(self) -> None:
        """End the request on the server, if it still runs. Idempotent."""
        ...


class HttpAnswer:
    """`ForwardedAnswer` over HTTP."""

    def __init__(self, response: httpx.Response, base: str) -> None:
        """`response` is open, its body not read; `base` names the server in errors."""
        self._response = response
        self._base = base

    @property
    def status(self) -> int:
        return self._response.status_code

    async def read(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.aiter_bytes():
                yield part
        except httpx.HTTPError as error:
            what = error or type(error).__name__
            raise CloudUnreachable(f"the connection to {self._base} was lost ({what})") from error

    async def aclose(self) -> None:
        await self._response.aclose()


class FakeForwardedAnswer:
    """`ForwardedAnswer` with a given body, then `error` if any. With `hang` the body never ends."""

    def __init__(
        self,
        status: int,
        parts: Sequence[bytes],
        *,
        error: Exception | None = None,
        hang: bool = False,
    ) -> None:
        self.status = status
        self.closed = asyncio.Event()
        self._parts = parts
        self._error = error
        self._hang = hang

    async def read(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        if self._hang:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed.set()
