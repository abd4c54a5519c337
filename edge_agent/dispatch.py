"""Each generation on the route that its request asks for, and what follows when the verifier is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final, Protocol

from edge_agent.api import SEED_BITS, GenerationChunk, GenerationRequest, GenerationStats, Route
from edge_agent.drafting.worker import DraftWorker
from edge_agent.errors import CloudRefused
from edge_agent.sampling.pickers import Pickers
from edge_agent.session.control_plane import ControlPlane
from edge_agent.session.fallback import Fallback, local_after_loss
from edge_agent.session.local import generate_locally
from edge_agent.session.session import CollaborativeSession
from edge_agent.target import TokenizerBundle
from edge_agent.verifier.connection import ConnectionPool
from pipesd_vllm.wire import Mode

__all__ = ["ASKED_FOR", "Dispatcher"]

ASKED_FOR: Final = "asked for"
_DRAW_BITS: Final = 16


class Tokenizers(Protocol):
    """`Generator.tokenizer`."""

    def __call__(self, *, offline: bool = False) -> Awaitable[TokenizerBundle]: ...


class Dispatcher:
    """`mode` and `policy` are those of requests that name none. `clock` in seconds."""

    def __init__(
        self,
        worker: DraftWorker,
        pool: ConnectionPool,
        control: ControlPlane,
        tokenizer: Tokenizers,
        *,
        mode: Mode,
        policy: str,
        fallback: Fallback,
        clock: Callable[[], float],
        draw_bits: Callable[[int], int],
    ) -> None:
        self._worker = worker
        self._pool = pool
        self._control = control
        self._tokenizer = tokenizer
        self._mode = mode
        self._policy = policy
        self._fallback = fallback
        self._clock = clock
        self._draw_bits = draw_bits
        self._local_slots = asyncio.Semaphore(worker.drafter.info.max_sequences)
        self._pickers = Pickers(tokenizer)

    def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """See `Generator.generate`."""
        request = self._seeded(request)
        match request.route:
            case Route.COLLABORATIVE:
                return self._collaborate(request)
            case Route.LOCAL:
                stats = GenerationStats(Route.LOCAL, ASKED_FOR, self._clock(), seed=request.sampling.seed)
                return self._locally(request, stats)
            case Route.CLOUD:
                raise CloudRefused("unsupported_route", "requests for the cloud route are to be forwarded")

    def _seeded(self, request: GenerationRequest) -> GenerationRequest:
        """Both sides need a seed, and so does taking the session over."""
        sampling = request.sampling
        if sampling.temperature == 0 or sampling.seed is not None:
            return request
        return replace(request, sampling=replace(sampling, seed=self._draw_bits(SEED_BITS)))

    def _draw(self) -> float:
        return self._draw_bits(_DRAW_BITS) / 2**_DRAW_BITS

    def _collaborate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        mode = request.mode or self._mode
        control = self._control.start_session(
            request.request_id,
            len(request.prompt_token_ids),
            request.policy or self._policy,
            mode,
            sampled=request.sampling.temperature > 0,
        )
        session = CollaborativeSession(
            request,
            self._pool,
            self._worker,
            control,
            mode,
            self._clock,
            self._pickers,
            fallback=self._fallback,
            draw=self._draw,
        )
        if self._fallback is not Fallback.LOCAL:
            return session.run()
        return local_after_loss(request, session.run(), session.stats, self._locally)

    async def _locally(
        self, request: GenerationRequest, stats: GenerationStats
    ) -> AsyncGenerator[GenerationChunk, None]:
        bundle = await self._tokenizer(offline=True)
        picker, ignored = await self._pickers.choose(request, bundle)
        eos = bundle.eos_token_ids
        chunks = generate_locally(request, self._worker, picker, eos, stats, self._clock, ignored)
        async with self._local_slots, aclosing(chunks):
            async for chunk in chunks:
                yield chunk
