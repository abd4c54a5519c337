"""A target whose server may be away when the gateway starts, and is then tried in the background."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from edge_agent.api import (
    AnswerEvent,
    AskRequest,
    ForwardedAnswer,
    GenerationChunk,
    GenerationRequest,
    Generator,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.errors import CloudUnreachable, EdgeError

__all__ = ["LateGenerator"]

logger = logging.getLogger("pipesd.gateway")

RETRY_S: Final = 10.0


class LateGenerator:
    """The `Generator` that `start` makes, once it can; until then what needs one raises `CloudUnreachable`.

    Made in a running event loop.
    """

    def __init__(
        self, label: str, start: Callable[[], Awaitable[Generator]], retry_s: float = RETRY_S
    ) -> None:
        """`start` raises while it cannot, and is tried again; `label` names the target in the log."""
        self._label = label
        self._start = start
        self._retry_s = retry_s
        self._made: Generator | None = None
        self._problem = f"{label} was not reached yet"
        self._tried = asyncio.Event()
        self._reaching = asyncio.create_task(self._reach())

    async def _reach(self) -> None:
        while self._made is None:
            try:
                self._made = await self._start()
            except EdgeError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.warning("the target at %s is left out: %s", self._label, error)
            except Exception as error:  # of a library: the gateway has other targets to serve
                self._problem = f"the target at {self._label} cannot be started: the gateway's log says why"
                logger.error("the target at %s is left out", self._label, exc_info=error)
            self._tried.set()
            if self._made is None:
                await asyncio.sleep(self._retry_s)

    async def tried(self) -> None:
        """Wait until it is there, or was found to be away."""
        await self._tried.wait()

    @property
    def _generator(self) -> Generator:
        if self._made is None:
            raise CloudUnreachable(self._problem)
        return self._made

    async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
        return await self._generator.target(offline=offline, max_age_s=max_age_s)

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        return await self._generator.tokenizer(offline=offline)

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        return self._generator.generate(request)

    def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        return self._generator.ask(request)

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        return await self._generator.forward(path, body)

    async def health(self) -> dict[str, str]:
        if self._made is None:
            return {"status": "degraded", "cloud": "out of reach"}
        return await self._made.health()

    async def close(self) -> None:
        self._reaching.cancel()
        with suppress(asyncio.CancelledError):
            await self._reaching
        if self._made is not None:
            await self._made.close()
