"""The edge agent: one draft model, one verifier, many generations. Composes; decides nothing itself."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from edge_agent.agent_parts import cloud_api, cloud_connector, control_plane, parameter_sources
from edge_agent.api import GenerationChunk, GenerationRequest
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.parameter_sources import ParameterSources
from edge_agent.control.policies.registry import DEFAULT_POLICY
from edge_agent.dispatch import Dispatcher
from edge_agent.drafting.draft_files import load_drafter, own_tokenizer
from edge_agent.drafting.drafter import Drafter
from edge_agent.drafting.worker import DraftWorker
from edge_agent.session.control_plane import ControlPlane
from edge_agent.session.fallback import Fallback, unless_away
from edge_agent.settings import EdgeSettings
from edge_agent.target import TargetInfo, TokenizerBundle
from edge_agent.verifier.connection import ConnectionPool
from edge_agent.verifier.http import CloudApi
from edge_agent.verifier.link_probe import probe_link
from edge_agent.verifier.pairing import check_pairing
from edge_agent.verifier.passthrough import ForwardedAnswer
from edge_agent.verifier.retry import ImpatientConnector
from edge_agent.verifier.target import TargetIdentity, no_own_tokenizer
from edge_agent.verifier.transport import Connector
from pipesd_vllm.wire import Fingerprint, Mode, Welcome

__all__ = ["EdgeAgent"]


class EdgeAgent:
    """Implements `edge_agent.api.Generator`. Build it with `start`."""

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
        self._fingerprints: dict[int, Fingerprint] = {}
        info = worker.drafter.info
        self._identity = TargetIdentity(
            api, info, self._fingerprint, own_tokenizer, may_be_away=fallback is not Fallback.ERROR
        )
        self._dispatcher = Dispatcher(
            worker,
            self._pool,
            control,
            self._identity.tokenizer,
            mode=mode,
            policy=policy,
            fallback=fallback,
            clock=clock,
            draw_bits=draw_bits,
        )

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
        api = cloud_api(settings)
        target_name, worker = await _reach_and_load(api, settings, load or load_drafter)
        own_sources = sources or parameter_sources(settings, worker.drafter.info.name, target_name)
        agent = cls(
            worker,
            cloud_connector(settings),
            api,
            control_plane(settings, own_sources),
            mode=settings.mode,
            policy=settings.policy,
            fallback=settings.fallback,
            own_tokenizer=lambda: own_tokenizer(settings),
            connect_timeout_s=settings.connect_timeout_s,
        )
        if target_name is not None:
            await agent._warm_up_or_close(settings.fallback)
        return agent

    async def _warm_up_or_close(self, fallback: Fallback) -> None:
        """Raises as `start`; the agent is closed then."""
        try:
            await unless_away(self.warm_up(), fallback)
        except BaseException:
            await self.close()
            raise

    async def warm_up(self) -> None:
        """Make (and so check) the first connection, and time it."""
        connection = await self._pool.acquire()
        try:
            await probe_link(connection, self._control.monitor)
        finally:
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
        async with aclosing(self._dispatcher.stream(request)) as stream:
            async for chunk in stream:
                yield chunk

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """See `Generator.forward`."""
        return await self._api.forward(path, body)

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
        """The draft model's, kept: a new connection does not wait for a call of the draft model to end."""
        if num_tokens not in self._fingerprints:
            made = await self._worker.run(lambda drafter: drafter.fingerprint(num_tokens))
            self._fingerprints[num_tokens] = made
        return self._fingerprints[num_tokens]


async def _reach_and_load(
    api: CloudApi, settings: EdgeSettings, load: Callable[[EdgeSettings], Drafter]
) -> tuple[str | None, DraftWorker]:
    """The target's name, unless the verifier is away, and the loaded draft model. An error closes `api`."""
    try:
        target = await unless_away(api.target(), settings.fallback)
        worker = DraftWorker(await asyncio.to_thread(load, settings))
    except BaseException:
        await api.close()
        raise
    return None if target is None else target.model, worker
