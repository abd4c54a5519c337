"""The edge agent: one draft model or none, one verifier, many generations, each on the route it asks for."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import platformdirs

from edge_agent.api import (
    AnswerContinued,
    AnswerEvent,
    AskRequest,
    Fallback,
    ForwardedAnswer,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Route,
    SessionMode,
    TargetInfo,
    TokenizerBundle,
    seeded,
)
from edge_agent.control import (
    DEFAULT_POLICY,
    AgentParameters,
    EnvironmentSnapshot,
    FixedParameters,
    PolicyParameters,
    TunedParameters,
)
from edge_agent.drafting import (
    EMBEDDED,
    Drafter,
    DraftLibrary,
    DraftThread,
    DraftWorker,
    can_draft,
    chosen,
    drafts_at_hand,
    drafts_without_model,
    fitting,
    load_drafter,
    own_tokenizer,
)
from edge_agent.errors import (
    TRANSIENT,
    CloudError,
    CloudRefused,
    CloudUnreachable,
    DraftAnswers,
    DraftCapacityError,
    EdgeError,
    NoDraftModel,
    PairingError,
    Transient,
    VerifierTooOld,
)
from edge_agent.sampling import Pickers
from edge_agent.session import (
    ApiExchange,
    CollaborativeSession,
    ControlPlane,
    generate_locally,
    local_reason,
    unless_away,
    without_verifier,
)
from edge_agent.settings import EdgeSettings
from edge_agent.tracing import FileRecorder, NullRecorder
from edge_agent.verifier import (
    CloudApi,
    ConnectionPool,
    Connector,
    RetryTimeoutConnector,
    ServedTarget,
    WebSocketConnector,
    check_pairing,
    probe_link,
    trusting,
)
from edge_agent.verifier.target import no_own_tokenizer, nobody_else
from pipesd_vllm.wire import Fingerprint, Welcome

__all__ = [
    "EdgeAgent",
    "agent_parameters",
    "cloud_api",
    "cloud_connector",
    "for_another_target",
    "policy_parameters",
]

logger = logging.getLogger("pipesd.edge")

_NO_MODEL: Final = "none"
_CHECKED_ENOUGH: Final = 200
"""Drafts after which acceptance is known within a few hundredths."""
_DRAW_BITS: Final = 16
"""Random bits behind each draw of a delay."""


class EdgeAgent:
    """Implements `edge_agent.api.Generator`. Build it with `start`."""

    def __init__(
        self,
        worker: DraftWorker | None,
        connector: Connector,
        api: CloudApi,
        control: ControlPlane,
        *,
        mode: SessionMode = SessionMode.AUTO,
        policy: str = DEFAULT_POLICY,
        fallback: Fallback = Fallback.LOCAL,
        own_tokenizer: Callable[[], TokenizerBundle] = no_own_tokenizer,
        library: DraftLibrary | None = None,
        connect_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        draw_bits: Callable[[int], int] = secrets.randbits,
        other_connectors: Sequence[Connector] = (),
    ) -> None:
        """`worker`: drafts with a model; None: there is none. `library` makes what looks drafts up; None:
        nothing does. `mode` and `policy` are those of requests that name none. `clock` in seconds.
        `other_connectors` reach more servers of the same target, for when the first is away."""
        self._worker = worker
        self._api = api
        self._control = control
        self._mode = mode
        self._policy = policy
        self._fallback = fallback
        self._library = library
        self._clock = clock
        self._draw_bits = draw_bits
        self._pool = ConnectionPool(
            RetryTimeoutConnector(connector),
            self._check,
            connect_timeout_s,
            others=[RetryTimeoutConnector(other) for other in other_connectors],
            clock=clock,
        )
        self._fingerprints: dict[int, Fingerprint] = {}
        self._misfits: set[Fingerprint] = set()
        """Vocabularies that the draft model does not have."""
        self._misfit: PairingError | None = None
        """Why the draft model cannot continue texts of the present target."""
        self._untranslatable: set[Fingerprint] = set()
        """Vocabularies that its tokens cannot be translated to."""
        self._translating: asyncio.Task[None] | None = None
        self._translated_for: Fingerprint | None = None
        """The vocabulary that the draft model's tokens are translated to; None: it drafts in its own."""
        self._tells_acceptance_at: int | None = None
        """Drafts that have been checked by when a translated model's acceptance is told."""
        self._served = ServedTarget(
            api,
            None if worker is None else worker.drafter.info,
            self._fingerprint,
            own_tokenizer,
            may_be_away=fallback is not Fallback.ERROR,
            clock=clock,
        )
        self._pickers = Pickers(self._served.tokenizer)

    @classmethod
    async def start(
        cls,
        settings: EdgeSettings,
        load: Callable[[EdgeSettings], Drafter] | None = None,
        parameters: AgentParameters | None = None,
    ) -> EdgeAgent:
        """Load the draft (with `load`, if given), reach the verifier, read the texts to draft from.

        In place of the default draft, one that is at hand and has the target's vocabulary is taken.

        `parameters`: those that sessions work with, if not those of `settings`. Without `load` and where
        `drafts_without_model` says so, there is no draft model. A verifier that is out of reach is an error
        only then and with `fallback = error`. Raises `ModelError`, `ConfigError`, `CloudUnreachable`,
        `CloudRefused`.
        """
        library = DraftLibrary(settings.draft_from, history_folder()) if settings.lookup else None
        async with AsyncExitStack() as made:
            made.push_async_callback((api := cloud_api(settings)).close)
            if load is None:
                settings = await _with_fitting_draft(api, settings)
                load = None if drafts_without_model(settings) else load_drafter
            target_name, worker = await _reach_and_load(api, settings, load)
            if worker is not None:
                made.push_async_callback(worker.close)
            draft_name = _NO_MODEL if worker is None else worker.drafter.info.name
            own = parameters or agent_parameters(settings, draft_name, target_name)
            control = _control_plane(settings, own)
            made.pop_all()  # the agent's own from here on
        agent = cls(
            worker,
            cloud_connector(settings),
            api,
            control,
            mode=settings.mode,
            policy=settings.policy,
            fallback=settings.fallback,
            own_tokenizer=lambda: own_tokenizer(settings),
            library=library,
            connect_timeout_s=settings.connect_timeout_s,
            other_connectors=[_connector(url, settings) for url in settings.replicas],
        )
        if target_name is not None:
            await agent._prepare_or_close(settings.fallback)
        return agent

    async def _prepare_or_close(self, fallback: Fallback) -> None:
        """Raises as `start`; the agent is closed then."""
        try:
            await unless_away(self.warm_up(), fallback)
            await unless_away(self._served.target(), fallback)
            await self._load_library()
        except BaseException:
            await self.close()
            raise

    async def _load_library(self) -> None:
        """Read the texts to draft from, once the target's vocabulary is known; without them if it is not."""
        if self._library is not None and not self._library.is_empty:
            try:
                await self._library.load(await self._served.tokenizer())
            except EdgeError as error:
                logger.warning("drafting without files and history: %s", error)

    async def warm_up(self) -> None:
        """Make (and so check) the first connection, and time it; an older server's has nothing to time."""
        try:
            connection = await self._pool.acquire()
        except VerifierTooOld as error:
            logger.warning("requests go to the server's plain API: %s", error)
            return
        try:
            await probe_link(connection, self._control.monitor)
        finally:
            await self._pool.release(connection)

    @property
    def draft_name(self) -> str:
        """Name of the draft model, "none" without one."""
        return _NO_MODEL if self._worker is None else self._worker.drafter.info.name

    def link_snapshot(self) -> EnvironmentSnapshot:
        """What link, draft and server cost now, as measured by this agent's sessions."""
        return self._control.monitor.snapshot()

    async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
        """See `Generator.target`."""
        target = await self._served.target(offline=offline, max_age_s=max_age_s)
        return target if self._misfit is None else replace(target, has_draft=False)

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        """See `Generator.tokenizer`."""
        return await self._served.tokenizer(offline=offline)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """See `Generator.generate`."""
        # Both sides need the seed, and so does taking the session over.
        request = replace(request, sampling=seeded(request.sampling, self._draw_bits))
        lost: Transient | None = None
        match request.route:
            case Route.CLOUD:
                raise CloudRefused("unsupported_route", "requests for the cloud route are to be forwarded")
            case Route.LOCAL:
                seed = request.sampling.seed
                stats = GenerationStats(Route.LOCAL, request.reason, self._clock(), seed=seed)
            case Route.COLLABORATIVE:
                sampled = request.sampling.temperature > 0
                session = self._session(request, len(request.prompt_token_ids), sampled=sampled)
                committed: list[int] = []
                try:
                    async with aclosing(session.run()) as events:
                        async for event in events:
                            if isinstance(event, GenerationChunk):
                                committed += event.token_ids
                                yield event
                    return
                except TRANSIENT as error:
                    if self._worker is None:
                        raise nobody_else(error) from error
                    if self._fallback is not Fallback.LOCAL:
                        raise
                    lost = error
                finally:
                    self._remember(session)
                logger.warning("the draft model answers alone: %s", lost)
                stats = session.stats
                stats.route_reason = local_reason(lost, begun=bool(committed))
                request = without_verifier(request, committed)
        async for chunk in self._alone(request, stats, lost):
            yield chunk

    async def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        """See `Generator.ask`."""
        session = self._session(request, 0, sampled=request.sampled)
        try:
            async with aclosing(session.run()) as events:
                async for event in events:
                    yield event
            return
        except TRANSIENT as error:
            if self._worker is None:
                raise nobody_else(error) from error
            lost = error
        finally:
            self._remember(session)
        if self._fallback is not Fallback.LOCAL:
            raise lost
        exchange = session.exchange
        if not exchange.has_begun:
            raise DraftAnswers(local_reason(lost, begun=False), lost)
        first = exchange.streams[0]
        known = first.request
        assert isinstance(exchange, ApiExchange)
        if known is None or not request.may_continue_locally:
            raise lost
        committed = first.committed
        logger.warning("the draft model answers alone: %s", lost)
        session.stats.route_reason = local_reason(lost, begun=True)
        yield AnswerContinued(known.prompt_token_ids, tuple(committed))
        if exchange.finish_reason is not None:  # of the text alone a part is missing
            yield GenerationChunk((), exchange.finish_reason, session.stats)
            return
        async for chunk in self._alone(without_verifier(known, committed), session.stats, lost):
            yield chunk

    async def _alone(
        self, request: GenerationRequest, stats: GenerationStats, lost: Transient | None
    ) -> AsyncIterator[GenerationChunk]:
        """The draft model's own tokens; `lost`, if the verifier was, in place of what keeps it from it."""
        try:
            local = await self._local(request, stats)
            async with aclosing(local) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (DraftCapacityError, NoDraftModel):
            if lost is None:
                raise
            raise lost from None

    def _session(
        self, request: GenerationRequest | AskRequest, prompt_len: int, *, sampled: bool
    ) -> CollaborativeSession:
        mode = request.mode or self._mode
        body = request.body if isinstance(request, AskRequest) else b""
        start_control = partial(
            self._control.start_session,
            request.request_id,
            prompt_len,
            request.policy or self._policy,
            mode,
            sampled=sampled,
        )
        return CollaborativeSession(
            request,
            self._pool,
            self._worker,
            start_control,
            self._clock,
            self._pickers,
            fits=self._fits,
            sources=None if self._library is None else self._library.sources(body, self._served.bundle),
            fallback=self._fallback,
            draw=lambda: self._draw_bits(_DRAW_BITS) / 2**_DRAW_BITS,
        )

    def _remember(self, session: CollaborativeSession) -> None:
        self._tell_acceptance()
        if self._library is not None:
            for stream in session.exchange.streams:
                self._library.remember(stream.chain.tokens)

    async def _local(
        self, request: GenerationRequest, stats: GenerationStats
    ) -> AsyncGenerator[GenerationChunk, None]:
        if self._worker is None:
            raise NoDraftModel
        if self._misfit is not None:
            raise NoDraftModel(str(self._misfit))
        bundle = await self._served.tokenizer(offline=True)
        choice = await self._pickers.choose(request, bundle)
        return generate_locally(request, self._worker, choice, bundle.eos_token_ids, stats, self._clock)

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """See `Generator.forward`."""
        try:
            return await self._api.forward(path, body)
        except CloudUnreachable as error:
            raise error if self._worker is not None else nobody_else(error) from error

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
        if self._translating is not None:
            self._translating.cancel()
        await self._api.close()
        if self._worker is not None:
            await self._worker.close()
        if self._library is not None:
            await self._library.close()
        self._control.close()

    async def _check(self, welcome: Welcome) -> None:
        self._served.notice(welcome)
        self._misfit = None
        if self._worker is None:
            return
        try:
            check_pairing(self.draft_name, await self._fingerprint(welcome.fingerprint.num_tokens), welcome)
        except PairingError as error:
            self._misfit = error
            self._misfits.add(welcome.fingerprint)
            known = {self._translated_for, *self._untranslatable}
            if self._translating is None and welcome.fingerprint not in known:
                self._translating = asyncio.create_task(self._translate(self._worker, welcome, error))
        else:
            if self._translated_for is not None:
                self._translated_for = None
                await self._worker.translate(None)

    async def _translate(self, worker: DraftWorker, welcome: Welcome, misfit: PairingError) -> None:
        """Have the draft model draft in the target's ids; answers that are under way join in."""
        logger.warning("%s; its tokens are translated", misfit)
        try:
            target = await _vocabulary(await self._served.tokenizer(), welcome.fingerprint.num_tokens)
            made = await worker.translate(target)
        except Exception as error:  # a tokenizer's library raises no narrower class; lookup goes on
            self._untranslatable.add(welcome.fingerprint)
            logger.warning("drafting by lookup only: its tokens cannot be translated (%s)", error)
            return
        finally:
            self._translating = None
        assert made is not None
        self._translated_for = welcome.fingerprint
        self._tells_acceptance_at = self._control.monitor.num_checked + _CHECKED_ENOUGH
        logger.warning("%s has %.0f %% of the target's tokens", self.draft_name, 100 * made.shared)

    def _fits(self, welcome: Welcome) -> bool:
        """Whether the draft model drafts in the target's vocabulary."""
        if self._translated_for is not None:
            return welcome.fingerprint == self._translated_for
        return self._worker is not None and welcome.fingerprint not in self._misfits

    def _tell_acceptance(self) -> None:
        """What a model of another vocabulary is worth, once enough is known."""
        monitor, told_at = self._control.monitor, self._tells_acceptance_at
        if told_at is not None and monitor.num_checked >= told_at:
            self._tells_acceptance_at = None
            logger.warning(
                "the target keeps %.0f %% of what %s drafts in its tokens",
                100 * monitor.hit_rate,
                self.draft_name,
            )

    async def _fingerprint(self, num_tokens: int) -> Fingerprint:
        """The draft model's, kept: a new connection does not wait for a call of the draft model to end."""
        assert self._worker is not None
        if num_tokens not in self._fingerprints:
            made = await self._worker.run(lambda drafter: drafter.fingerprint(num_tokens))
            self._fingerprints[num_tokens] = made
        return self._fingerprints[num_tokens]


async def _vocabulary(bundle: TokenizerBundle, num_tokens: int) -> list[str]:
    """The token strings of a tokenizer in id order; raises what its library does."""

    def read() -> list[str]:
        from tokenizers import Tokenizer  # takes long to import

        by_string = Tokenizer.from_str(bundle.tokenizer_json).get_vocab(with_added_tokens=True)
        found = [""] * num_tokens
        for string, token_id in by_string.items():
            if token_id < num_tokens:
                found[token_id] = string
        return found

    return await asyncio.to_thread(read)


async def _with_fitting_draft(api: CloudApi, settings: EdgeSettings) -> EdgeSettings:
    """`settings` as `chosen` has them; as they are where the target cannot be asked, which is told later."""
    if settings.draft.strip() != EMBEDDED or not can_draft():
        return settings
    try:
        vocabulary = await api.vocabulary()
    except CloudError:
        return settings
    return await asyncio.to_thread(lambda: chosen(settings, vocabulary, drafts_at_hand()))


async def for_another_target(settings: EdgeSettings, url: str) -> EdgeSettings:
    """Settings for an agent beside that of `settings`, for the target at `url`.

    It drafts with a model of its own if one at hand has the target's vocabulary, and else looks drafts up.
    Raises `CloudError` if the target cannot be asked, `ModelError`.
    """
    own = {"cloud_url": url, "replicas": (), "other_targets": (), "trace": None}
    settings = settings.model_copy(update=own)
    api = cloud_api(settings)
    try:
        vocabulary = await api.vocabulary()
    finally:
        await api.close()
    return await asyncio.to_thread(lambda: fitting(settings, vocabulary, drafts_at_hand()))


async def _reach_and_load(
    api: CloudApi, settings: EdgeSettings, load: Callable[[EdgeSettings], Drafter] | None
) -> tuple[str | None, DraftWorker | None]:
    """The target's name, unless the verifier is away, and the draft model that `load` gives."""
    if load is None:
        return await _reached(api), None
    target = await unless_away(api.target(), settings.fallback)
    worker = DraftThread(await asyncio.to_thread(load, settings))
    return None if target is None else target.model, worker


async def _reached(api: CloudApi) -> str:
    try:
        return (await api.target()).model
    except TRANSIENT as error:
        raise nobody_else(error) from error


def cloud_api(settings: EdgeSettings) -> CloudApi:
    """The verifier's HTTP routes; what they answer is kept in the user's cache folder."""
    cache_dir = _cache_folder() / "tokenizers"
    return CloudApi(
        settings.cloud_url,
        settings.cloud_key,
        settings.connect_timeout_s,
        cache_dir,
        replicas=settings.replicas,
        tls=trusting(settings.ca_file),
    )


def history_folder() -> Path:
    """Where earlier answers are kept, if that was asked for."""
    return _cache_folder() / "history"


def _cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("pipesd"))


def cloud_connector(settings: EdgeSettings) -> Connector:
    """Makes connections to the verifier."""
    return _connector(settings.cloud_url, settings)


def _connector(url: str, settings: EdgeSettings) -> Connector:
    trusted, affinity = trusting(settings.ca_file), secrets.token_hex(8)
    return WebSocketConnector(url, settings.cloud_key, settings.connect_timeout_s, trusted, affinity)


def _control_plane(settings: EdgeSettings, parameters: AgentParameters) -> ControlPlane:
    """Controls by `parameters`, with a trace if the settings ask for one."""
    recorder = FileRecorder(settings.trace) if settings.trace else NullRecorder()
    return ControlPlane(parameters, recorder, time.monotonic, pass_weight_ms=settings.pass_weight_ms)


def agent_parameters(settings: EdgeSettings, draft: str, target: str | None) -> AgentParameters:
    """Fixed parameters, or with `tune` the autotuner's, whose results are filed by the target's name."""
    base = policy_parameters(settings)
    if not settings.tune or target is None:
        return FixedParameters(base)
    return TunedParameters(base, draft, target, settings.pass_weight_ms)


def policy_parameters(settings: EdgeSettings) -> PolicyParameters:
    """The part of the settings that policies work with."""
    return PolicyParameters(
        sequence_threshold=settings.sequence_threshold,
        token_threshold=settings.token_threshold,
        max_ahead=settings.max_ahead,
        patience_ms=settings.patience_ms,
        max_window=settings.max_window,
    )
