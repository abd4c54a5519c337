"""The edge agent where no draft model is installed: every answer is the server's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from edge_agent.agent import cloud_api
from edge_agent.api import (
    AnswerEvent,
    AskRequest,
    ForwardedAnswer,
    GenerationChunk,
    GenerationRequest,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.errors import TRANSIENT, CloudUnreachable, NoDraftModel
from edge_agent.settings import EdgeSettings
from edge_agent.verifier.http import CloudApi

__all__ = ["CloudOnlyAgent"]

_NOBODY_ELSE: Final = "no draft model is installed that could answer meanwhile: `pip install 'pipesd[edge]'`"


class CloudOnlyAgent:
    """Implements `edge_agent.api.Generator` without drafting. Build it with `start`."""

    def __init__(self, api: CloudApi) -> None:
        self._api = api

    @classmethod
    async def start(cls, settings: EdgeSettings) -> CloudOnlyAgent:
        """Reach the server. Raises `CloudUnreachable`, `CloudRefused`, `CloudMisbehaved`."""
        agent = cls(cloud_api(settings))
        try:
            await agent.target()
        except BaseException:
            await agent.close()
            raise
        return agent

    async def target(self, *, offline: bool = False) -> TargetInfo:
        """See `Generator.target`. Known since the start; with `offline` too."""
        try:
            return replace(await self._api.target(), has_draft=False)
        except TRANSIENT as error:
            raise CloudUnreachable(f"{error}; {_NOBODY_ELSE}", error.retry_after_s) from error

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        """See `Generator.tokenizer`."""
        return await self._api.tokenizer()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """Raises `NoDraftModel`: whatever is not forwarded needs one."""
        raise NoDraftModel
        yield  # an iterator, as `Generator.generate`

    async def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        """Raises `NoDraftModel`, as `generate`."""
        raise NoDraftModel
        yield  # an iterator, as `Generator.ask`

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """See `Generator.forward`."""
        try:
            return await self._api.forward(path, body)
        except CloudUnreachable as error:
            raise CloudUnreachable(f"{error}; {_NOBODY_ELSE}", error.retry_after_s) from error

    async def health(self) -> dict[str, str]:
        """`status` is "degraded" while the server does not answer."""
        reachable = await self._api.is_healthy()
        return {
            "status": "ok" if reachable else "degraded",
            "draft": "none",
            "cloud": "reachable" if reachable else "out of reach",
        }

    async def close(self) -> None:
        """Idempotent."""
        await self._api.close()
