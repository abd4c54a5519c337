"""The edge agent: one draft model, one verifier, many generations. Composes; decides nothing itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Final

import platformdirs

from edge_agent.cloud_api import CloudApi
from edge_agent.connection import ConnectionPool
from edge_agent.control import ControlPlane
from edge_agent.draft_files import load_drafter, own_tokenizer
from edge_agent.drafter import Drafter
from edge_agent.errors import CloudRefused, CloudUnreachable
from edge_agent.fallback import Fallback, local_after_loss
from edge_agent.generation import (
    SEED_BITS,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Route,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.identity import TargetIdentity, no_own_tokenizer
from edge_agent.local import generate_locally
from edge_agent.monitor import EnvironmentSnapshot
from edge_agent.pairing import check_pairing
from edge_agent.parameter_sources import FixedSources, ParameterSources, TunedSources
from edge_agent.passthrough import ForwardedAnswer
from edge_agent.policies.base import PolicyParameters
from edge_agent.policies.registry import DEFAULT_POLICY
from edge_agent.probing import probe_link
from edge_agent.reach import ImpatientConnector
from edge_agent.sampling.source import Pickers
from edge_agent.session import CollaborativeSession
from edge_agent.settings import EdgeSettings
from edge_agent.tracing.recorder import FileRecorder, NullRecorder
from edge_agent.transport import Connector
from edge_agent.tuning.registry import TunerRegistry
from edge_agent.websocket_transport import WebSocketConnector
from edge_agent.worker import DraftWorker
from pipesd_vllm.protocol import Fingerprint, Mode, Welcome

ASKED_FOR: Final = "asked for"
_AWAY_AT_START: Final = "the verifier is out of reach; until it is back the setting 'fallback' applies"

logger = logging.getLogger("pipesd.edge")


class EdgeAgent:
    """Implements `edge_agent.generation.Generator`. Build it with `start`."""

    def __init__(
        self,
        worker: DraftWorker,
        connector: Connector,
        api: CloudApi,
        control: ControlPlane,
        *,
        mode: Mode = Mode.BALANCED,
        policy: str = DEFAULT_POLICY,
        fallback: Fallback = Fallback.LOCAL,
        own_tokenizer: Callable[[], TokenizerBundle] = no_own_tokenizer,
        connect_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._worker = worker
        self._pool = ConnectionPool(ImpatientConnector(connector), self._check, connect_timeout_s)
        self._api = api
        self._control = control
        self._mode = mode
        self._policy = policy
        self._fallback = fallback
        self._clock = clock
        info = worker.drafter.info
        self._identity = TargetIdentity(
            api, info, self._fingerprint, own_tokenizer, may_be_away=fallback is not Fallback.ERROR
        )
        self._local_slots = asyncio.Semaphore(info.max_sequences)
        self._draw_bits = draw_bits
        self._pickers = Pickers(self.tokenizer)

    @classmethod
    async def start(
        cls,
        settings: EdgeSettings,
        load: Callable[[EdgeSettings], Drafter] | None = None,
        sources: ParameterSources | None = None,
    ) -> EdgeAgent:
        """Load the draft (with `load`, if given), reach the verifier, check that the two fit.

        `sources`: where sessions get their parameters from, if not from `settings`.
        A verifier that is out of reach is an error with `fallback = error` alone. Raises `ModelError`,
        `PairingError`, `CloudUnreachable`, `CloudRefused`.
        """
        key = settings.api_key.get_secret_value() if settings.api_key else None
        timeout_s = settings.connect_timeout_s
        cache_dir = Path(platformdirs.user_cache_dir("pipesd")) / "tokenizers"
        api = CloudApi(settings.cloud_url, key, timeout_s, cache_dir)
        try:
            target_name = await _target_name(api, settings.fallback)
            worker = DraftWorker(await asyncio.to_thread(load or load_drafter, settings))
        except BaseException:
            await api.close()
            raise
        connector = WebSocketConnector(settings.cloud_url, key, timeout_s)
        recorder = FileRecorder(settings.trace) if settings.trace else NullRecorder()
        own_sources = sources or parameter_sources(settings, worker.drafter.info.name, target_name)
        control = ControlPlane(own_sources, recorder, time.monotonic)
        agent = cls(
            worker,
            connector,
            api,
            control,
            mode=settings.mode,
            policy=settings.policy,
            fallback=settings.fallback,
            own_tokenizer=lambda: own_tokenizer(settings),
            connect_timeout_s=timeout_s,
        )
        try:
            if target_name is not None:
                await agent.warm_up()
        except CloudUnreachable as error:
            if settings.fallback is Fallback.ERROR:
                await agent.close()
                raise
            logger.warning("%s: %s", _AWAY_AT_START, error)
        except BaseException:
            await agent.close()
            raise
        return agent

    async def warm_up(self) -> None:
        """Make (and so check) the first connection, and time it."""
        connection = await self._pool.acquire()
        await probe_link(connection, self._control.monitor)
        await self._pool.release(connection)

    @property
    def draft_name(self) -> str:
        """Name of the draft model."""
        return self._worker.drafter.info.name

    def link_snapshot(self) -> EnvironmentSnapshot:
        """What link, draft and server cost now, as measured by this agent's sessions."""
        return self._control.monitor.snapshot()

    async def target(self, *, offline: bool = False) -> TargetInfo:
        """See `Generator.target`."""
        return await self._identity.target(offline=offline)

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        """See `Generator.tokenizer`."""
        return await self._identity.tokenizer(offline=offline)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """See `Generator.generate`."""
        async with aclosing(self._stream(request)) as stream:
            async for chunk in stream:
                yield chunk

    def _stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        request = self._seeded(request)
        match request.route:
            case Route.COLLABORATIVE:
                return self._collaborate(request)
            case Route.LOCAL:
                stats = GenerationStats(Route.LOCAL, ASKED_FOR, self._clock(), seed=request.sampling.seed)
                return self._locally(request, stats)
            case Route.CLOUD:
                raise CloudRefused("unsupported_route", "requests for the cloud route are to be forwarded")

    async def _locally(
        self, request: GenerationRequest, stats: GenerationStats
    ) -> AsyncGenerator[GenerationChunk, None]:
        bundle = await self.tokenizer(offline=True)
        picker, ignored = await self._pickers.choose(request, bundle)
        eos = bundle.eos_token_ids
        chunks = generate_locally(request, self._worker, picker, eos, stats, self._clock, ignored)
        async with self._local_slots, aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def _collaborate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        mode = request.mode or self._mode
        control = self._control.start_session(
            request.request_id,
            len(request.prompt_token_ids),
            request.policy or self._policy,
            mode,
            sampled=request.sampling.temperature > 0,
        )
        waits = self._fallback is Fallback.WAIT
        session = CollaborativeSession(
            request, self._pool, self._worker, control, mode, self._clock, self._pickers, waits=waits
        )
        if self._fallback is not Fallback.LOCAL:
            return session.run()
        return local_after_loss(request, session.run(), session.stats, self._locally)

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """See `Generator.forward`."""
        return await self._api.forward(path, body)

    def _seeded(self, request: GenerationRequest) -> GenerationRequest:
        """Both sides need a seed, and so does taking the session over."""
        sampling = request.sampling
        if sampling.temperature == 0 or sampling.seed is not None:
            return request
        return replace(request, sampling=replace(sampling, seed=self._draw_bits(SEED_BITS)))

    async def health(self) -> dict[str, str]:
        """`status` is "degraded" while the verifier does not answer; `link_rtt_ms` once it was measured."""
        reachable = await self._api.is_healthy()
        rtt_s = self._control.monitor.snapshot().rtt_s
        return {
            "status": "ok" if reachable else "degraded",
            "draft": self.draft_name,
            "cloud": "reachable" if reachable else "out of reach",
            **({} if rtt_s is None else {"link_rtt_ms": f"{rtt_s * 1e3:.2f}"}),
        }

    async def close(self) -> None:
        """Idempotent."""
        await self._pool.close()
        await self._api.close()
        await self._worker.close()
        self._control.close()

    async def _check(self, welcome: Welcome) -> None:
        self._identity.notice(welcome)
        draft = await self._fingerprint(welcome.fingerprint.num_tokens)
        check_pairing(self.draft_name, draft, welcome)

    async def _fingerprint(self, num_tokens: int) -> Fingerprint:
        return await self._worker.run(lambda drafter: drafter.fingerprint(num_tokens))


async def _target_name(api: CloudApi, fallback: Fallback) -> str | None:
    """The target's name; None if the verifier is out of reach and need not be there."""
    try:
        return (await api.target()).model
    except CloudUnreachable as error:
        if fallback is Fallback.ERROR:
            raise
        logger.warning("%s: %s", _AWAY_AT_START, error)
        return None


def parameter_sources(settings: EdgeSettings, draft: str, target: str | None) -> ParameterSources:
    """Fixed parameters, or with `tune` the autotuner's, whose results are filed by the target's name."""
    base = policy_parameters(settings)
    if not settings.tune or target is None:
        return FixedSources(base)
    return TunedSources(TunerRegistry(), base, draft, target, settings.pass_weight_ms)


def policy_parameters(settings: EdgeSettings) -> PolicyParameters:
    """The part of the settings that policies work with."""
    return PolicyParameters(
        sequence_threshold=settings.sequence_threshold,
        token_threshold=settings.token_threshold,
        max_ahead=settings.max_ahead,
        patience_ms=settings.patience_ms,
        max_window=settings.max_window,
    )
