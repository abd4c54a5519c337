"""Reads an async iterator in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import anyio

__all__ = ["Pump"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT_S = 5.0
"""How long `aclose` waits for the source to close; after that the source goes on closing by itself."""


class Pump(Generic[T]):
    """Runs `source` and yields its items in order; starts at once, inside a running loop.

    The source is read and closed in one task, apart from the web framework's. So it can be
    cancelled at any moment, also by a reader that is itself being cancelled, and its clean-up is
    not interrupted a second time. The buffer is not bounded: a generation is, by `max_tokens`.
    """

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self._started = False
        self._abandoned = False
        self._task = asyncio.create_task(self._run(source))

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """The next item. Raises what the source raised, after all items before it."""
        await self._wait()
        if self._items:
            return self._items.popleft()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def peek(self, timeout_s: float) -> T | None:
        """The next item without taking it; None if there is none (yet) after `timeout_s`.

        Raises what the source raised if it failed before that item.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait()
        except TimeoutError:
            return None
        if not self._items and self._error is not None:
            raise self._error
        return self._items[0] if self._items else None

    def cancel(self) -> None:
        """Stop the source at once; what it has given so far stays readable. Idempotent."""
        if self._started:
            self._task.cancel()
        else:
            # A task cancelled before its first step never runs, so it could not close the source.
            self._abandoned = True

    async def aclose(self) -> None:
        """`cancel` and wait until the source has closed. Idempotent, works while being cancelled."""
        self.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    async def _wait(self) -> None:
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()

    async def _run(self, source: AsyncIterator[T]) -> None:
        self._started = True
        try:
            if self._abandoned:
                return
            async for item in source:
                self._items.append(item)
                self._changed.set()
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._changed.set()
            await _close(source)


async def _close(source: AsyncIterator[object]) -> None:
    aclose = getattr(source, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except Exception:
        # The reader is gone or has its answer; there is nobody left to tell.
        logger.exception("closing a generation failed")
